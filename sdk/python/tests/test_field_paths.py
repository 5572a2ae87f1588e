"""Keys of requests, against the vectors that every language shares."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.message import DecodeError

from plait import _keys
from plait.v1 import contract_service_pb2 as contract

_FILE = Path(__file__).parents[3] / "interop" / "vectors" / "field_paths.json"
_DOCUMENT = json.loads(_FILE.read_text())
_FIELDS = {"name", "kind", "numbers", "message_hex"}
_TYPES = {
    "STRING": FieldDescriptorProto.TYPE_STRING,
    "BYTES": FieldDescriptorProto.TYPE_BYTES,
    "INT": FieldDescriptorProto.TYPE_INT64,
    "UINT": FieldDescriptorProto.TYPE_UINT64,
    "SINT": FieldDescriptorProto.TYPE_SINT64,
    "BOOL": FieldDescriptorProto.TYPE_BOOL,
    "FIXED32": FieldDescriptorProto.TYPE_FIXED32,
    "FIXED64": FieldDescriptorProto.TYPE_FIXED64,
    "SFIXED32": FieldDescriptorProto.TYPE_SFIXED32,
    "SFIXED64": FieldDescriptorProto.TYPE_SFIXED64,
}


def _message_class(numbers: list[int], kind: str) -> Any:
    """A message type that has the path and nothing else, as the real parser knows it."""
    file = descriptor_pb2.FileDescriptorProto(name="keyed.proto", package="k", syntax="proto3")
    for level, number in enumerate(numbers):
        field = file.message_type.add(name=f"M{level}").field.add(
            name="it", number=number, label=FieldDescriptorProto.LABEL_OPTIONAL
        )
        if level < len(numbers) - 1:
            field.type = FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = f".k.M{level + 1}"
        else:
            field.type = _TYPES[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("k.M0"))


def _by_parser(path: contract.KeyPath, kind: str, payload: bytes) -> str:
    message = _message_class(list(path.numbers), kind).FromString(payload)
    return _keys.by_descriptor(path, message.DESCRIPTOR)(message)


def test_the_vectors_are_of_a_known_form():
    assert _DOCUMENT["schema"] == 1
    for vector in _DOCUMENT["vectors"]:
        assert vector.keys() - _FIELDS in ({"text"}, {"error"}), vector["name"]
    names = [vector["name"] for vector in _DOCUMENT["vectors"]]
    assert len(names) == len(set(names)) >= 70
    assert {vector["kind"] for vector in _DOCUMENT["vectors"]} == _TYPES.keys()


@pytest.mark.parametrize("vector", _DOCUMENT["vectors"], ids=lambda each: each["name"])
def test_field_path(vector):
    kind = contract.KeyKind.Value(f"KEY_KIND_{vector['kind']}")
    path = contract.KeyPath(path="it", numbers=vector["numbers"], kind=kind)
    payload = bytes.fromhex(vector["message_hex"])
    if "error" in vector:
        with pytest.raises((DecodeError, UnicodeDecodeError)):
            _by_parser(path, vector["kind"], payload)
        with pytest.raises((DecodeError, UnicodeDecodeError)):
            _keys.by_numbers(path)(payload)
    else:
        assert _by_parser(path, vector["kind"], payload) == vector["text"]
        assert _keys.by_numbers(path)(payload) == vector["text"]
