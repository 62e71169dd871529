"""The real ``mlaas4hep train`` in the runner: ROOT files in, a model in TFaaS out."""

import asyncio
from pathlib import Path

import numpy as np

from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.repository import Repository
from support.service import Service, real_files


def test_a_real_training_is_published_and_answers(service: Service, tmp_path: Path) -> None:
    service.upload("luca", real_files(tmp_path))
    [job] = service.run(service.submit("luca"))
    log = (service.home(job) / "log.txt").read_text()
    assert (job.state, job.reason) == ("succeeded", ""), log
    assert "training    100 %" in log  # a line for each tenth of a phase, then the metrics
    assert f"auc      {job.metrics['auc']:.4f}" in log
    assert job.servable, job.why_not
    assert job.metrics["auc"] > 0.5
    assert job.progress["phase"] == "publishing"
    assert (service.home(job) / "luca_1/report.html").is_file()
    assert (service.home(job) / "luca_1.tar.gz").is_file()

    async def answers() -> np.ndarray:
        registry = Registry(Repository(service.settings.models), service.settings)
        model = await registry.get("luca_1")
        return await model.predict_many(np.zeros((3, len(model.columns)), np.float32))

    found = asyncio.run(answers())
    assert found.shape == (3, 1)
    assert ((found >= 0) & (found <= 1)).all()


def test_a_real_failure_names_the_thing_and_the_remedy(service: Service, tmp_path: Path) -> None:
    files = real_files(tmp_path) | {
        "files.txt": b"signal.root\nbackground.root\nmissing.root\n",
        "labels.txt": b"1\n0\n0\n",
    }
    service.upload("luca", files)
    [job] = service.run(service.submit("luca"))
    assert job.state == "failed"
    assert "missing.root" in job.reason
    assert job.exit_code == 1
