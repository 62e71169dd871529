"""Whether TFaaS is ready, and its figures: rows, batches, models in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from mlaas4hep.core.errors import MlaasError
from mlaas4hep.inference.registry import Registry
from mlaas4hep.models.repository import Repository


class PredictionFigures(Collector):
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
