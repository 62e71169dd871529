"""The protobuf messages of TFaaS, package tfaaspb, proto3.

message Row         { repeated string key = 1; repeated float value = 2; string model = 3; }
message Class       { string label = 1; float probability = 2; }
message Predictions { repeated Class prediction = 1; }
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from mlaas4hep.core.errors import UsageError

_MESSAGES = {
    "Row": ["repeated string key", "repeated float value", "optional string model"],
    "Class": ["optional string label", "optional float probability"],
    "Predictions": ["repeated Class prediction"],
}


def _messages() -> dict[str, Any]:
    field = descriptor_pb2.FieldDescriptorProto
    labels = {"optional": field.LABEL_OPTIONAL, "repeated": field.LABEL_REPEATED}
    types = {"string": field.TYPE_STRING, "float": field.TYPE_FLOAT}
    file = descriptor_pb2.FileDescriptorProto(
        name="tfaas.proto", package="tfaaspb", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (label, kind, field_name) in enumerate((f.split() for f in fields), 1):
            entry = message.field.add(name=field_name, number=number, label=labels[label])
            entry.type = types.get(kind, field.TYPE_MESSAGE)
            if kind not in types:
                entry.type_name = f".tfaaspb.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tfaaspb.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _messages()
Row, Class, Predictions = _CLASSES["Row"], _CLASSES["Class"], _CLASSES["Predictions"]


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
    answer: bytes = Predictions(prediction=classes).SerializeToString()
    return answer
