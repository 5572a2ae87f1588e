"""Boundary messages: what they are, that any parser takes them, and that they stay the same."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from plait._boundary import wire
from plait._boundary.cases import Case, boundary_cases, random_cases
from plait._descriptors import pool_of
from testing.v1 import echo_pb2

_FILE = Path(__file__).parents[3] / "interop" / "vectors" / "boundary_cases.json"
_DOCUMENT = json.loads(_FILE.read_text())
_POOL = pool_of(base64.b64decode(_DOCUMENT["descriptor_set"]))
_REQUESTS = [each["request"] for each in _DOCUMENT["vectors"]]
_SCALARS = "testing.v1.Scalars"


def type_of(name: str) -> type[Message]:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def cases_of(name: str) -> list[Case]:
    return boundary_cases(_POOL.FindMessageTypeByName(name), _DOCUMENT["limit"])


def as_vector(case: Case, known: dict[str, Any]) -> dict[str, Any]:
    """A case in the form of its vector."""
    made: dict[str, Any] = {"name": case.name}
    if "hex" in known:
        made["hex"] = case.payload.hex()
    else:
        made["size"] = len(case.payload)
        made["sha256"] = hashlib.sha256(case.payload).hexdigest()
    return {**made, "breaks": case.breaks} if case.breaks else made


@pytest.fixture(scope="module")
def scalars() -> dict[str, Any]:
    """What the cases of the echo service's scalars say, by name."""
    made = boundary_cases(echo_pb2.ScalarsRequest.DESCRIPTOR)
    return {each.name: echo_pb2.ScalarsRequest.FromString(each.payload).values for each in made}


def test_the_vectors_are_of_this_schema():
    assert _DOCUMENT["schema"] == 1
    assert sum(len(each["cases"]) for each in _DOCUMENT["vectors"]) > 600


@pytest.mark.parametrize("vectors", _DOCUMENT["vectors"], ids=_REQUESTS)
def test_the_cases_are_those_of_the_vectors(vectors):
    made = cases_of(vectors["request"])
    assert [each.name for each in made] == [each["name"] for each in vectors["cases"]]
    for case, known in zip(made, vectors["cases"], strict=True):
        assert as_vector(case, known) == known


@pytest.mark.parametrize("name", _REQUESTS)
def test_every_case_has_a_name_of_its_own_and_is_a_message(name):
    made = cases_of(name)
    assert len({each.name for each in made}) == len(made)
    for case in made:
        read = type_of(name).FromString(case.payload)
        # What the bytes say survives a round trip.
        assert (
            type_of(name).FromString(read.SerializePartialToString()) == read or "NaN" in case.name
        )
        assert len(case.payload) <= _DOCUMENT["limit"]


def test_the_largest_is_as_large_as_a_request_may_be():
    for name in _REQUESTS:
        assert max(len(each.payload) for each in cases_of(name)) == _DOCUMENT["limit"]


@pytest.mark.parametrize("limit", range(100, 300))
def test_the_largest_is_so_at_each_length_of_its_length(limit):
    made = boundary_cases(echo_pb2.EchoRequest.DESCRIPTOR, limit)
    # A length that takes one byte more leaves out one size.
    assert limit - 1 <= max(len(each.payload) for each in made) <= limit


def test_each_scalar_kind_is_at_its_edges(scalars):
    def of(field: str, label: str) -> Any:
        return getattr(scalars[f"{_SCALARS}.{field} = {label}"], field)

    for kind, bits in (
        ("int32", 32),
        ("sint32", 32),
        ("sfixed32", 32),
        ("int64", 64),
        ("sint64", 64),
        ("sfixed64", 64),
    ):
        assert of(f"{kind}_value", f"{kind} max") == 2 ** (bits - 1) - 1
        assert of(f"{kind}_value", f"{kind} min") == -(2 ** (bits - 1))
        assert of(f"{kind}_value", f"{kind} -1") == -1
    for kind, bits in (("uint32", 32), ("fixed32", 32), ("uint64", 64), ("fixed64", 64)):
        assert of(f"{kind}_value", f"{kind} max") == 2**bits - 1
    assert of("double_value", "double NaN") != of("double_value", "double NaN")
    assert str(of("double_value", "double -0")) == "-0.0"
    assert of("float_value", "float infinity") == float("inf")
    assert of("double_value", "double least above 0") == 5e-324
    assert of("bool_value", "bool true") is True
    assert of("bytes_value", "bytes all 256 values") == bytes(range(256))
    assert of("string_value", "string NUL") == "a\0b"
    assert of("colour", "enum unknown max") == 2**31 - 1
    assert of("colour", "enum COLOUR_DARK") == -1
    assert scalars[f"{_SCALARS}.optional_value = int32 0"].HasField("optional_value")


def test_oneofs_lists_maps_and_nesting(scalars):
    both = scalars[f"{_SCALARS}.choice = first arm, then last"]
    assert both.WhichOneof("choice") == "choice_number"
    every = scalars[f"{_SCALARS}.numbers = every sint64"]
    assert every.numbers == scalars[f"{_SCALARS}.numbers = every sint64, packed"].numbers
    assert {0, -1, 2**63 - 1, -(2**63)} <= set(every.numbers)
    assert len(scalars[f"{_SCALARS}.texts = 1000 of them"].texts) == 1000
    assert scalars[f"{_SCALARS}.counts = one key twice"].counts == {"k0": 7}
    assert scalars[f"{_SCALARS}.counts = an entry without key and value"].counts == {"": 0}
    depth, at = 0, scalars[f"{_SCALARS}.nested = 32 deep"]
    while at.HasField("nested"):
        depth, at = depth + 1, at.nested
    assert depth == 32
    full = scalars["testing.v1.ScalarsRequest = every field set"]
    # The other arm of the oneof aside.
    assert len(full.ListFields()) == len(full.DESCRIPTOR.fields) - 1


def test_rules_make_messages_at_their_edges_and_say_which_are_outside():
    made = {each.name.removeprefix("boundary.v1."): each for each in cases_of("boundary.v1.Order")}

    def breaks(name: str) -> str:
        return made[f"Order.{name}"].breaks

    assert breaks("quantity = int32 below gte 1") == "gte 1"
    assert breaks("quantity = int32 at gte 1") == ""
    assert breaks("name = string 2 for min_len 2") == ""
    assert breaks("name = string 6 for max_len 5") == "max_len 5"
    assert breaks("name = string astral") == ""
    assert breaks("kind = string padded") == "in a, bb"
    assert breaks("price = double NaN") == "gt 0.5"
    assert breaks("price = double infinity") == "finite"
    assert breaks("tags = 4 of at most 3") == "max 3"
    assert breaks("tags = one string empty") == "min_len 1"
    assert breaks("patience = Duration below gte 1000000000 ns") == "gte 1000000000 ns"
    assert breaks("due = unset") == "required"
    assert breaks("payment = no arm") == "oneof required"
    assert breaks("email = string empty") == ""
    assert breaks("expression = string empty") == ""
    assert breaks("free = string empty") == ""
    assert breaks("odd = uint64 1") == ""
    order = type_of("boundary.v1.Order")
    for name in ("Order = every field set", "Order.quantity = int32 at gte 1"):
        said: Any = order.FromString(made[name].payload)
        assert not made[name].breaks
        # What other fields ask for is there.
        assert (said.kind, said.code, said.fixed) == ("a", "x-z!", 42)
        assert (said.digest, said.buyer.name) == (b"\x01xxx", "text")
        assert len(said.tags) == 1
        assert len(said.stock) == 2


@settings(deadline=None)
@given(seed=st.integers(), count=st.integers(0, 5), name=st.sampled_from(_REQUESTS))
def test_random_cases_are_messages_and_come_again(seed, count, name):
    kind = _POOL.FindMessageTypeByName(name)
    made = random_cases(kind, seed, count)
    assert len(made) == count
    assert made == random_cases(kind, seed, count)
    for case in made:
        type_of(name).FromString(case.payload)


@settings(deadline=None)
@given(number=st.integers(1, 2**29 - 1), value=st.integers(-(2**63), 2**63 - 1))
def test_what_is_written_is_read(number, value):
    for kind in wire.KINDS.values():
        if not kind.bits:
            continue
        half = 1 << kind.bits - 1
        fits = (value + half) % (1 << kind.bits) - half if kind.signed else value % (1 << kind.bits)
        ((found, raw),) = wire.read(wire.field(number, kind, fits))
        assert (found, wire.value_of(kind, raw)) == (number, fits)
