from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlaas4hep.core.settings import Settings
from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.repository import Repository
from mlaas4hep.web.status import exposed, registry
from mlaas4hep.web.tfaas.status import PredictionMetrics
from support.bundles import constant, make_bundle
from support.tfaas_process import TFaaSProcess, tfaas_process

VALUES = [0.5] * 8


def samples(text: str) -> dict[str, float]:
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def figures(service: TFaaSProcess) -> dict[str, float]:
    return samples(service.http.get("/metrics").text)


def test_ready_while_the_models_can_be_read(tmp_path: Path) -> None:
    with tfaas_process(tmp_path / "store") as service:
        assert service.http.get("/readyz").json() == {"status": "ready"}
        (tmp_path / "store/models").rename(tmp_path / "store/away")
        answer = service.http.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        said = answer.json()
        assert said["title"] == "not ready: the models can't be read: No such file or directory"
        assert "MLAAS4HEP_STORE" in said["detail"]
        assert service.http.get("/healthz").status_code == 200
        (tmp_path / "store/away").rename(tmp_path / "store/models")
        assert service.http.get("/readyz").status_code == 200


def test_metrics_and_lines_of_predictions(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "store/models")
    for name in ("luca_1", "luca_2"):
        made = make_bundle(tmp_path, name, lambda width: constant(width, 1))
        repository.put(made, name)
    with tfaas_process(tmp_path / "store") as service:
        before = figures(service)
        assert before["mlaas4hep_models_loaded"] == before["mlaas4hep_predicted_rows_total"] == 0
        for name in ("luca_1", "luca_1", "luca_2"):
            assert service.predict(VALUES, name).status_code == 200
        events = {
            "model": "luca_1",
            "events": [{"met": 1.0, "nJet": 1, "jet_eta": [], "jet_pt": []}] * 5,
        }
        assert service.http.post("/predict/events", json=events).status_code == 200
        failed = service.http.post("/json", content=b"{", headers={"x-request-id": "failing"})
        assert failed.status_code == 400
        assert failed.headers["x-request-id"] == "failing"
        assert service.http.get("/models?token=SECRET").status_code == 200
        found = figures(service)
        text = service.http.get("/metrics").text
    assert found["mlaas4hep_models_loaded"] == 2
    assert found["mlaas4hep_predicted_rows_total"] == 8
    assert found["mlaas4hep_batch_rows_bucket 1.0"] == 3
    assert found["mlaas4hep_batch_rows_bucket 4.0"] == 3
    assert found["mlaas4hep_batch_rows_bucket 8.0"] == 4
    assert found["mlaas4hep_batch_rows_count"] == 4
    assert found["mlaas4hep_batch_rows_sum"] == 8
    assert found["mlaas4hep_waiting_predictions"] == 0
    assert found["mlaas4hep_requests_total POST /json 200"] == 3
    assert found["mlaas4hep_requests_total POST /json 400"] == 1
    assert found["mlaas4hep_requests_total GET /models 200"] == 1
    assert "luca" not in text
    log = (tmp_path / "store/tfaas.log").read_text()
    assert "SECRET" not in log
    lines = [json.loads(line) for line in log.splitlines()]
    seen = [(line["path"], line["status"]) for line in lines if line["message"] == "request"]
    assert seen == [("/json", 400), ("/models", 200)]
    assert {line["request_id"] for line in lines if line.get("path") == "/json"} == {"failing"}


def test_predictions_that_wait(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    repository.put(make_bundle(tmp_path, "m", lambda width: constant(width, 1)), "m")
    models = Registry(repository, Settings(store=tmp_path, max_batch_rows=2))

    def waiting() -> float:
        text = bytes(exposed(registry(PredictionMetrics(models))).body).decode()
        return samples(text)["mlaas4hep_waiting_predictions"]

    async def work() -> list[float]:
        model = await models.get("m")
        answers = [model.predict(model.row(VALUES)) for _ in range(5)]
        found = [waiting()]
        await asyncio.gather(*answers)
        found.append(waiting())
        models.close()
        return found

    assert asyncio.run(work()) == [5, 0]
    assert models.counts.batches[:3] == [1, 2, 0]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 128, 129, 16384, 16385, 10**6])
def test_sizes_of_batches(rows: int, tmp_path: Path) -> None:
    models = Registry(Repository(tmp_path / "models"), Settings(store=tmp_path))
    models.counts.add(rows)
    text = bytes(exposed(registry(PredictionMetrics(models))).body).decode()
    models.close()
    found = samples(text)
    for bound in (2**i for i in range(15)):
        assert found[f"mlaas4hep_batch_rows_bucket {bound}.0"] == (rows <= bound), bound
    assert found["mlaas4hep_batch_rows_bucket +Inf"] == 1
