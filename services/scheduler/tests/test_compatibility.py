"""What breaks tasks in flight is found; what does not is let through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.compatibility import compare
from plait_scheduler.domain.contract import Contract, FieldShape, Kind, MessageShape, MethodShape
from plait_scheduler.domain.contract import ServiceShape as Service
from plait_scheduler.domain.registry import Accepted, Incompatible, Invalid, decide
from services.scheduler.tests.contracts import source

SERVICE = "shop.v1.S"
BASE = """
message R { string id = 1; int32 n = 2; Part part = 3; repeated string tags = 4; bytes b = 5;
            map<string, Part> parts = 6; Kind kind = 7; R next = 8; }
message Part { fixed32 size = 1; }
message A { string id = 1; }
message Other { string id = 1; }
enum Kind { KIND_UNSPECIFIED = 0; }
service S {
  rpc Do(R) returns (A) { option (plait.v1.task) = {ordering_key: "id"}; }
  rpc See(R) returns (A);
}
"""

MAP = "map<string, Part> parts"


def changed(*edits: tuple[str, str]) -> set[tuple[str, str]]:
    """Kinds and subjects of what is wrong after the edits."""
    text = BASE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    old_contract = source(BASE, SERVICE, digest="old")
    new_contract = source(text, SERVICE, digest="new")
    return {(p.kind, p.subject) for p in compare(old_contract, new_contract, SERVICE)}


@pytest.mark.parametrize(
    ("old", "new", "kind", "subject"),
    [
        ("rpc See(R) returns (A);", "", "METHOD_REMOVED", "S.See"),
        ("rpc See(R) returns (A);", "rpc See(stream R) returns (A);", "METHOD_REMOVED", "S.See"),
        ("See(R)", "See(Other)", "REQUEST_TYPE_CHANGED", "S.See"),
        ("rpc See(R) returns (A)", "rpc See(R) returns (Other)", "RESPONSE_TYPE_CHANGED", "S.See"),
        ('ordering_key: "id"', 'ordering_key: "n"', "KEY_PATH_CHANGED", "S.Do"),
        ('ordering_key: "id"', "priority: 1", "KEY_PATH_CHANGED", "S.Do"),
        (
            'ordering_key: "id"',
            'idempotency_key: "id" ordering_key: "id"',
            "KEY_PATH_CHANGED",
            "S.Do",
        ),
        ("int32 n = 2", "string n = 2", "FIELD_TYPE_CHANGED", "R.n"),
        ("int32 n = 2", "sint32 n = 2", "FIELD_TYPE_CHANGED", "R.n"),
        ("int32 n = 2", "fixed32 n = 2", "FIELD_TYPE_CHANGED", "R.n"),
        ("int32 n = 2;", "repeated int32 n = 2;", "FIELD_CARDINALITY_CHANGED", "R.n"),
        ("repeated string tags", "string tags", "FIELD_CARDINALITY_CHANGED", "R.tags"),
        ("Part part = 3", "Other part = 3", "FIELD_TYPE_CHANGED", "R.part"),
        (MAP, MAP.replace("Part", "Other"), "FIELD_TYPE_CHANGED", "R.PartsEntry.value"),
        (MAP, MAP.replace("string", "int32"), "FIELD_TYPE_CHANGED", "R.PartsEntry.key"),
        ("fixed32 size = 1", "fixed64 size = 1", "FIELD_TYPE_CHANGED", "Part.size"),
    ],
)
def test_what_breaks_is_named(old: str, new: str, kind: str, subject: str):
    assert changed((old, new)) == {(kind, f"shop.v1.{subject}")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rpc See(R) returns (A);", "rpc See(R) returns (A); rpc New(R) returns (A);"),
        ("int32 n = 2;", "int32 n = 2; string more = 20;"),
        ("int32 n = 2;", ""),
        ("int32 n = 2", "int64 n = 2"),
        ("int32 n = 2", "Kind n = 2"),
        ("int32 n = 2", "int32 renamed = 2"),
        ("bytes b = 5", "string b = 5"),
        ("fixed32 size = 1", "sfixed32 size = 1"),
        ('ordering_key: "id"', 'ordering_key: "id" queue: "q" priority: 1'),
        ("KIND_UNSPECIFIED = 0;", "KIND_UNSPECIFIED = 0; KIND_NEW = 1;"),
    ],
)
def test_what_does_not_break_is_let_through(old: str, new: str):
    assert changed((old, new)) == set()


def test_every_problem_is_told():
    found = changed(("int32 n = 2", "string n = 2"), ("rpc See(R) returns (A);", ""))
    assert {kind for kind, _ in found} == {"FIELD_TYPE_CHANGED", "METHOD_REMOVED"}


def test_a_key_path_may_move_between_method_and_service():
    moved = source(
        BASE.replace('option (plait.v1.task) = {ordering_key: "id"};', "").replace(
            "service S {",
            'service S { option (plait.v1.task_defaults) = {ordering_key: "id"};',
        ),
        SERVICE,
        digest="new",
    )
    problems = compare(source(BASE, SERVICE, digest="old"), moved, SERVICE)
    # See has one now as well, and had none.
    assert [(p.kind, p.subject) for p in problems] == [("KEY_PATH_CHANGED", "shop.v1.S.See")]


KINDS = st.sampled_from(list(Kind))
FIELDS = st.lists(
    st.builds(
        FieldShape,
        name=st.sampled_from("abc"),
        number=st.integers(1, 3),
        kind=KINDS,
        repeated=st.booleans(),
        type_name=st.just("s.R"),
    ),
    max_size=3,
    unique_by=(lambda f: f.number, lambda f: f.name),
).map(tuple)


def contract(fields: tuple[FieldShape, ...], digest: str, keys: bool = False) -> Contract:
    method = MethodShape("M", "s.R", "s.R")
    service = Service("s.S", "s.proto", (method,))
    return Contract(digest, (service,), {"s.R": MessageShape("s.R", fields)})


@given(FIELDS)
def test_a_contract_fits_itself(fields: tuple[FieldShape, ...]):
    assert compare(contract(fields, "a"), contract(fields, "b"), "s.S") == []


@given(FIELDS, FIELDS)
def test_breaking_is_the_same_both_ways_for_fields_that_both_have(
    old: tuple[FieldShape, ...], new: tuple[FieldShape, ...]
):
    forth = compare(contract(old, "a"), contract(new, "b"), "s.S")
    back = compare(contract(new, "b"), contract(old, "a"), "s.S")
    assert [problem.kind for problem in forth].sort() == [problem.kind for problem in back].sort()
    assert len(forth) == len(back)


@given(FIELDS, FIELDS)
def test_fields_that_are_added_break_nothing(
    fields: tuple[FieldShape, ...], more: tuple[FieldShape, ...]
):
    numbers = {field.number for field in fields}
    added = (*fields, *(field for field in more if field.number not in numbers))
    assert compare(contract(fields, "a"), contract(added, "b"), "s.S") == []


def test_the_first_contract_of_a_service_is_compared_with_nothing():
    assert isinstance(decide(source(BASE, SERVICE), {}, tolerant=False), Accepted)


def test_a_breaking_contract_is_refused_and_tolerated_in_development():
    old = {SERVICE: source(BASE, SERVICE, digest="old")}
    new = source(BASE.replace("int32 n = 2", "string n = 2"), SERVICE, digest="new")
    refused = decide(new, old, tolerant=False)
    assert isinstance(refused, Incompatible)
    tolerated = decide(new, old, tolerant=True)
    assert isinstance(tolerated, Accepted)
    assert tolerated.tolerated == refused.problems


def test_a_policy_that_cannot_hold_is_not_tolerated():
    broken = source(BASE.replace('ordering_key: "id"', 'ordering_key: "?"'), SERVICE)
    assert isinstance(decide(broken, {}, tolerant=True), Invalid)


def test_the_fingerprint_is_of_what_is_declared():
    base = source(BASE, SERVICE, digest="a")
    same = source(f"// A comment.\n{BASE}", SERVICE, digest="b")
    other = source(BASE.replace("int32 n", "int64 n"), SERVICE, digest="c")
    prints = [c.fingerprint(c.services[0]) for c in (base, same, other)]
    assert prints[0] == prints[1] != prints[2]
