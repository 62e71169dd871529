"""Readiness of a service, and its metrics for Prometheus.

Both services use this; what is special to each is in its own ``status``.
No metric carries the name of a user, folder, job or model: there may be any number of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry
from starlette.responses import JSONResponse, Response

from mlaas4hep import __version__
from mlaas4hep.core.errors import MlaasError
from mlaas4hep.web.problem import problem


class StoreMetrics(Collector):
    """The version that runs, and the space left where the store is."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What is so now."""
        version = GaugeMetricFamily("mlaas4hep_info", "Always 1.", labels=("version",))
        version.add_metric((__version__,), 1)
        yield version
        with suppress(OSError):  # readiness says what is wrong with it
            free = shutil.disk_usage(self._store).free
            yield GaugeMetricFamily("mlaas4hep_store_free_bytes", "Space left in the store.", free)


def registry(*collectors: Collector) -> CollectorRegistry:
    """The metrics of one service: those of ``collectors``, and of its process."""
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    for collector in collectors:
        made.register(collector)
    return made


def exposed(metrics: CollectorRegistry) -> Response:
    """The answer to GET /metrics."""
    return Response(generate_latest(metrics), headers={"content-type": CONTENT_TYPE_LATEST})


def readiness(lacks: list[MlaasError]) -> Response:
    """The answer to GET /readyz: 503 with what is not ready, and what to do."""
    if not lacks:
        return JSONResponse({"status": "ready"})
    said = "; ".join(lack.message for lack in lacks)
    return problem(503, f"not ready: {said}", " ".join(lack.remedy for lack in lacks))
