"""TFaaS's binary messages, as ``tfaas.proto`` has them."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from mlaas4hep.core.errors import UsageError
from mlaas4hep.web.tfaas.tfaas_pb2 import Class, Predictions, Row


def read_row(body: bytes) -> tuple[str, list[float], list[str]]:
    """Model, values and keys of a Row; floats may be packed or not. UsageError if it is none."""
    try:
        row = Row.FromString(body)
    except DecodeError as error:
        raise UsageError(
            f"the body is not a protobuf message tfaaspb.Row: {error}",
            "Its fields are: repeated string key = 1, repeated float value = 2, string model = 3.",
        ) from None
    return row.model, list(row.value), list(row.key)


def write_predictions(probabilities: Sequence[float], labels: Sequence[str]) -> bytes:
    """The bytes of a Predictions; ``labels`` are those of ``probabilities``."""
    classes = [
        Class(label=label, probability=value)
        for label, value in zip(labels, probabilities, strict=True)
    ]
    return Predictions(prediction=classes).SerializeToString()
