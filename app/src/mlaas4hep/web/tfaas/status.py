"""Whether TFaaS is ready, the state of its machine, and its metrics: rows, batches, models."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from time import time
from typing import Any

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.repository import Repository
from mlaas4hep.web.tfaas.answers import json_response


class PredictionMetrics(Collector):
    """What the models have answered; read from the registry when Prometheus asks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """What is so now."""
        counts, models = self._registry.counts, self._registry.models()
        yield CounterMetricFamily(
            "mlaas4hep_predicted_rows", "Rows that models were given.", counts.rows
        )
        sizes = list(accumulate(counts.batches))
        bounds = [str(2.0**i) for i in range(len(sizes) - 1)] + ["+Inf"]
        yield HistogramMetricFamily(
            "mlaas4hep_batch_rows",
            "Rows that a model was given at once.",
            list(zip(bounds, sizes, strict=True)),
            counts.rows,
        )
        waiting = sum(model.waiting for model in models)
        yield GaugeMetricFamily(
            "mlaas4hep_waiting_predictions", "Predictions that wait for the next batch.", waiting
        )
        yield GaugeMetricFamily("mlaas4hep_models_loaded", "Models in memory.", len(models))


def lacks(repository: Repository) -> list[MlaasError]:
    """What keeps TFaaS from answering, each with what to do."""
    try:
        repository.names()
    except OSError as error:
        return [
            MlaasError(
                f"the models can't be read: {error.strerror}",
                "Check the folder models of the store that MLAAS4HEP_STORE names, and its owner.",
            )
        ]
    return []


class Status:
    """What the prototype says of its machine and of itself at /status, under its keys."""

    def __init__(self) -> None:
        self._started = time()
        self._requests = {"GET": 0, "POST": 0}

    def count(self, method: str) -> None:
        """Count a request."""
        if method in self._requests:
            self._requests[method] += 1

    def show(self, _: Request) -> Response:
        """Answer; NGo counts threads."""
        load = psutil.getloadavg()
        virtual, swap = psutil.virtual_memory(), psutil.swap_memory()
        return json_response(
            {
                "CPU": psutil.cpu_percent(percpu=True),
                "Load": dict(zip(("load1", "load5", "load15"), load, strict=True)),
                "Memory": {"Virtual": _memory(virtual), "Swap": _memory(swap)},
                "NGo": psutil.Process().num_threads(),
                "Uptime": time() - self._started,
                "getRequests": self._requests["GET"],
                "postRequests": self._requests["POST"],
            }
        )


def _memory(found: Any) -> dict[str, float]:
    return {
        "total": found.total,
        "free": found.free,
        "used": found.used,
        "usedPercent": found.percent,
    }
