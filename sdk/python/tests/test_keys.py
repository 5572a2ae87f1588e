"""Keys by descriptor and by field numbers, which must not differ."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from sdk.python.tests.contracts import shop

from plait import _keys
from plait.v1 import contract_service_pb2 as contract

_KINDS = {
    "text": contract.KEY_KIND_STRING,
    "raw": contract.KEY_KIND_BYTES,
    "int32": contract.KEY_KIND_INT,
    "int64": contract.KEY_KIND_INT,
    "colour": contract.KEY_KIND_INT,
    "uint32": contract.KEY_KIND_UINT,
    "uint64": contract.KEY_KIND_UINT,
    "sint32": contract.KEY_KIND_SINT,
    "sint64": contract.KEY_KIND_SINT,
    "flag": contract.KEY_KIND_BOOL,
    "fixed32": contract.KEY_KIND_FIXED32,
    "fixed64": contract.KEY_KIND_FIXED64,
    "sfixed32": contract.KEY_KIND_SFIXED32,
    "sfixed64": contract.KEY_KIND_SFIXED64,
    "maybe": contract.KEY_KIND_STRING,
}


def _path(name: str) -> contract.KeyPath:
    keys = shop.PostRequest.DESCRIPTOR.fields_by_name["keys"]
    field = keys.message_type.fields_by_name[name]
    return contract.KeyPath(
        path=f"keys.{name}", numbers=[keys.number, field.number], kind=_KINDS[name]
    )


def _both(request: Any, name: str) -> str:
    path = _path(name)
    by_descriptor = _keys.by_descriptor(path, request.DESCRIPTOR)(request)
    assert _keys.by_numbers(path)(request.SerializeToString()) == by_descriptor
    return by_descriptor


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("text", "Žofie", "Žofie"),
        ("raw", b"\x00\xffA", "00ff41"),
        ("int32", -1, "-1"),
        ("int64", -(2**63), "-9223372036854775808"),
        ("colour", -5, "-5"),
        ("uint32", 2**32 - 1, "4294967295"),
        ("uint64", 2**64 - 1, "18446744073709551615"),
        ("sint32", -(2**31), "-2147483648"),
        ("sint64", 2**63 - 1, "9223372036854775807"),
        ("flag", True, "true"),
        ("fixed32", 2**32 - 1, "4294967295"),
        ("fixed64", 2**64 - 1, "18446744073709551615"),
        ("sfixed32", -(2**31), "-2147483648"),
        ("sfixed64", -1, "-1"),
    ],
)
def test_text_of_each_kind(name, value, text):
    request = shop.PostRequest(keys=shop.Keys(**{name: value}))
    assert _both(request, name) == text


@pytest.mark.parametrize("name", _KINDS)
def test_a_missing_field_is_its_default(name):
    text = {"text": "", "raw": "", "maybe": "", "flag": "false"}.get(name, "0")
    assert _both(shop.PostRequest(), name) == text
    assert _both(shop.PostRequest(keys=shop.Keys()), name) == text


def test_the_last_occurrence_counts_and_messages_merge():
    first = shop.PostRequest(keys=shop.Keys(text="a", int32=1))
    second = shop.PostRequest(keys=shop.Keys(text="b"))
    payload = first.SerializeToString() + second.SerializeToString()
    assert _keys.by_numbers(_path("text"))(payload) == "b"
    assert _keys.by_numbers(_path("int32"))(payload) == "1"


def test_unknown_fields_and_groups_are_skipped():
    inner = bytes([0x83, 0x06, 0x08, 0x01, 0x84, 0x06])  # group 96 with a varint inside
    keys = inner + shop.Keys(text="x").SerializeToString()
    payload = bytes([3 << 3 | 2, len(keys)]) + keys
    assert _keys.by_numbers(_path("text"))(payload) == "x"


@pytest.mark.parametrize(
    "payload",
    [
        b"\x1a\x05ab",  # cut off in a message
        b"\xff",  # cut off in a tag
        b"\x0b\x14",  # a group that another one ends
        b"\x0f",  # no such wire type
        b"\x08" + b"\xff" * 10 + b"\x01",  # a number of eleven bytes
        b"\x0b" * 200,  # groups without end
    ],
)
def test_broken_bytes_are_an_error(payload):
    with pytest.raises(DecodeError):
        _keys.by_numbers(_path("text"))(payload)


def test_a_field_that_the_type_does_not_have():
    path = contract.KeyPath(path="gone", numbers=[99], kind=contract.KEY_KIND_STRING)
    with pytest.raises(LookupError, match="gone"):
        _keys.by_descriptor(path, shop.PostRequest.DESCRIPTOR)


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.booleans(),
)
def test_both_ways_agree(text, raw, small, large, unsigned, flag):
    request = shop.PostRequest(
        keys=shop.Keys(
            text=text,
            raw=raw,
            int32=small,
            int64=large,
            uint64=unsigned,
            sint32=small,
            sint64=large,
            flag=flag,
            fixed64=unsigned,
            sfixed32=small,
            sfixed64=large,
            maybe=text,
        )
    )
    for name in _KINDS:
        _both(request, name)
