from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from mlaas4hep.core.errors import UsageError
from mlaas4hep.web.tfaas import tfaas_pb2
from mlaas4hep.web.tfaas.proto import read_row, write_predictions
from mlaas4hep.web.tfaas.tfaas_pb2 import Row

# The bytes below are written by hand from the wire format, not by the protobuf library.
PACKED = b"\x12\x08" + struct.pack("<2f", 1.5, -2)
UNPACKED = b"\x15" + struct.pack("<f", 1.5) + b"\x15" + struct.pack("<f", -2)
NAME = b"\x1a\x06luca_1"
KEYS = b"\x0a\x01a\x0a\x02bc"


@pytest.mark.parametrize("values", [PACKED, UNPACKED])
def test_floats_may_be_packed_or_not(values: bytes) -> None:
    assert read_row(KEYS + values + NAME) == ("luca_1", [1.5, -2], ["a", "bc"])
    assert read_row(NAME + values) == ("luca_1", [1.5, -2], [])


def test_unknown_fields_are_skipped_and_mixtures_joined() -> None:
    assert read_row(PACKED + b"\x20\x01" + UNPACKED + NAME)[1] == [1.5, -2, 1.5, -2]
    assert read_row(b"") == ("", [], [])


@pytest.mark.parametrize(
    "body", [b"\x12\xff", b'{"values": [1]}', b"\x0a\x02\xff\xfe", b"\x12\x03abc"]
)
def test_what_is_no_row_is_refused(body: bytes) -> None:
    with pytest.raises(UsageError, match="not a protobuf message"):
        read_row(body)


def test_answers_are_the_bytes_of_the_original() -> None:
    assert write_predictions([0.49811041355133057], [""]).hex() == "0a05155408ff3e"
    assert write_predictions([0.0], [""]).hex() == "0a00"
    assert write_predictions([0.5], ["b"]).hex() == "0a080a0162150000003f"


def test_fields_are_those_of_tfaas() -> None:
    assert Row.DESCRIPTOR.full_name == "tfaaspb.Row"
    assert Row(key=["a"], value=[1.5, -2], model="luca_1").SerializeToString() == (
        b"\x0a\x01a" + PACKED + NAME
    )


def test_the_generated_code_is_that_of_the_proto_file() -> None:
    text = Path(tfaas_pb2.__file__).with_name("tfaas.proto").read_text()
    text = re.sub("//.*", "", text)
    declared = {
        message: re.findall(r"(repeated )?(\w+) (\w+) = ([0-9]+);", fields)
        for message, fields in re.findall(r"message (\w+) \{([^}]*)\}", text)
    }
    rest = re.sub(r"message \w+ \{[^}]*\}", "", text)
    assert rest.split() == ["syntax", "=", '"proto3";', "package", "tfaaspb;"]
    kind = FieldDescriptorProto.Type.Name
    label = {FieldDescriptorProto.LABEL_REPEATED: "repeated "}
    file = FileDescriptorProto()
    tfaas_pb2.DESCRIPTOR.CopyToProto(file)
    assert (file.package, file.syntax) == ("tfaaspb", "proto3")
    assert declared == {
        message.name: [
            (
                label.get(field.label, ""),
                field.type_name.removeprefix(".tfaaspb.") or kind(field.type)[5:].lower(),
                field.name,
                str(field.number),
            )
            for field in message.field
        ]
        for message in file.message_type
    }
