from __future__ import annotations

import json
from pathlib import Path

from mlaas4hep import __version__
from mlaas4hep.core.errors import MlaasError
from mlaas4hep.web.status import StoreMetrics, exposed, readiness, registry


def test_ready() -> None:
    answer = readiness([])
    assert (answer.status_code, json.loads(bytes(answer.body))) == (200, {"status": "ready"})


def test_not_ready_says_all_that_lacks() -> None:
    answer = readiness([MlaasError("no disk", "Buy one."), MlaasError("no runner", "Start it.")])
    assert answer.media_type == "application/problem+json"
    assert json.loads(bytes(answer.body)) == {
        "title": "not ready: no disk; no runner",
        "status": 503,
        "detail": "Buy one. Start it.",
    }


def test_metrics_of_the_store(tmp_path: Path) -> None:
    answer = exposed(registry(StoreMetrics(tmp_path)))
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text = bytes(answer.body).decode()
    assert f'mlaas4hep_info{{version="{__version__}"}} 1.0' in text
    assert "\nmlaas4hep_store_free_bytes " in text
    assert "\nprocess_resident_memory_bytes " in text
    gone = bytes(exposed(registry(StoreMetrics(tmp_path / "gone"))).body).decode()
    assert "mlaas4hep_info" in gone
    assert "mlaas4hep_store_free_bytes" not in gone
