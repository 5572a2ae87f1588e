"""What breaks tasks in flight is found; what does not is let through."""

import pytest

from plait_scheduler.domain.change import Change, Effect, Look, Part
from plait_scheduler.domain.compatibility import compare
from plait_scheduler.domain.registry import Comparison, Invalid, compare_with, review
from plait_scheduler.domain.work import Work, WorkTask
from services.scheduler.tests.contracts import source

SERVICE = "shop.v1.S"
BASE = """
message R { string id = 1; int32 n = 2; Part part = 3; repeated string tags = 4; bytes b = 5;
            map<string, Part> parts = 6; Kind kind = 7; R next = 8;
            oneof who { string name = 9; int32 code = 10; } optional string note = 11; }
message Part { fixed32 size = 1; }
message A { string id = 1; }
message Other { string id = 1; }
enum Kind { KIND_UNSPECIFIED = 0; KIND_OLD = 1; }
service S {
  rpc Do(R) returns (A) { option (plait.v1.task) = {ordering_key: "id"}; }
  rpc See(R) returns (A);
}
"""

MAP = "map<string, Part> parts"
ONEOF = "oneof who { string name = 9; int32 code = 10; }"
OLD_VALUE = "KIND_OLD = 1;"


def changes(*edits: tuple[str, str], known: bool = False) -> list[Change]:
    """What is found after the edits."""
    text = BASE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    old_contract = source(BASE, SERVICE, digest="old")
    new_contract = source(text, SERVICE, digest="new")
    return compare(old_contract, new_contract, SERVICE, known)


def changed(*edits: tuple[str, str], known: bool = False) -> set[tuple[str, str]]:
    """Kinds and subjects of what is not harmless after the edits."""
    found = changes(*edits, known=known)
    return {(c.kind, c.subject) for c in found if c.effect is not Effect.HARMLESS}


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
        ('ordering_key: "id"', 'ordering_key: "id" queue: "q"', "QUEUE_CHANGED", "S.Do"),
        ("int32 n = 2", "string n = 2", "FIELD_TYPE_CHANGED", "R.n"),
        ("int32 n = 2", "sint32 n = 2", "FIELD_TYPE_CHANGED", "R.n"),
        ("int32 n = 2", "fixed32 n = 2", "FIELD_TYPE_CHANGED", "R.n"),
        ("int32 n = 2;", "repeated int32 n = 2;", "FIELD_CARDINALITY_CHANGED", "R.n"),
        ("repeated string tags", "string tags", "FIELD_CARDINALITY_CHANGED", "R.tags"),
        ("Part part = 3", "Other part = 3", "FIELD_TYPE_CHANGED", "R.part"),
        (MAP, MAP.replace("Part", "Other"), "FIELD_TYPE_CHANGED", "R.PartsEntry.value"),
        (MAP, MAP.replace("string", "int32"), "FIELD_TYPE_CHANGED", "R.PartsEntry.key"),
        ("fixed32 size = 1", "fixed64 size = 1", "FIELD_TYPE_CHANGED", "Part.size"),
        ("int32 n = 2;", "", "FIELD_REMOVED", "R.n"),
        ("int32 n = 2;", "reserved 2;", "FIELD_REMOVED", "R.n"),
        ("int32 n = 2;", 'reserved "n";', "FIELD_REMOVED", "R.n"),
        ("int32 n = 2", "Kind n = 2", "FIELD_JSON_TYPE_CHANGED", "R.n"),
        ("int32 n = 2", "bool n = 2", "FIELD_JSON_TYPE_CHANGED", "R.n"),
        ("bytes b = 5", "string b = 5", "FIELD_JSON_TYPE_CHANGED", "R.b"),
        ("int32 n = 2", "int32 renamed = 2", "FIELD_RENAMED", "R.n"),
        ("int32 n = 2", 'int32 n = 2 [json_name = "N"]', "FIELD_JSON_NAME_CHANGED", "R.n"),
        (ONEOF, "string name = 9; oneof who { int32 code = 10; }", "FIELD_ONEOF_CHANGED", "R.name"),
        ("int32 n = 2;", "oneof own { int32 n = 2; }", "FIELD_ONEOF_CHANGED", "R.n"),
        (
            "optional string note = 11;",
            "oneof own { string note = 11; }",
            "FIELD_ONEOF_CHANGED",
            "R.note",
        ),
        (OLD_VALUE, "", "ENUM_VALUE_REMOVED", "Kind.KIND_OLD"),
        (OLD_VALUE, "reserved 1;", "ENUM_VALUE_REMOVED", "Kind.KIND_OLD"),
        (OLD_VALUE, "KIND_NEWER = 1;", "ENUM_VALUE_RENAMED", "Kind.KIND_OLD"),
        (OLD_VALUE, "KIND_OLD = 2;", "ENUM_VALUE_REMOVED", "Kind.KIND_OLD"),
    ],
)
def test_what_breaks_is_named(old: str, new: str, kind: str, subject: str):
    assert changed((old, new)) == {(kind, f"shop.v1.{subject}")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rpc See(R) returns (A);", "rpc See(R) returns (A); rpc New(R) returns (A);"),
        ("int32 n = 2;", "int32 n = 2; string more = 20;"),
        ("int32 n = 2;", 'reserved 2; reserved "n";'),
        ("int32 n = 2;", 'reserved 1000 to max, 2; reserved "n";'),
        ("int32 n = 2", "int64 n = 2"),
        ("int32 n = 2", "optional int32 n = 2"),
        ("int32 n = 2", 'int32 n = 2 [json_name = "n"]'),
        ("oneof who", "oneof whoever"),
        (ONEOF, "oneof who { string name = 9; int32 code = 10; bool more = 20; }"),
        (OLD_VALUE, 'reserved 1; reserved "KIND_OLD";'),
        (OLD_VALUE, "option allow_alias = true; KIND_OLD = 1; KIND_ALIAS = 1;"),
        ("fixed32 size = 1", "sfixed32 size = 1"),
        ('ordering_key: "id"', 'ordering_key: "id" priority: 1'),
        ("KIND_UNSPECIFIED = 0;", "KIND_UNSPECIFIED = 0; KIND_NEW = 2;"),
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
    found = compare(source(BASE, SERVICE, digest="old"), moved, SERVICE)
    # See has one now as well, and had none.
    assert [(c.kind, c.subject) for c in found] == [("KEY_PATH_CHANGED", "shop.v1.S.See")]


def test_what_changes_harmlessly_is_told():
    found = changes(
        ("rpc See(R) returns (A);", "rpc See(R) returns (A); rpc New(R) returns (A);"),
        ("int32 n = 2;", "int64 n = 2; string more = 20;"),
        ('ordering_key: "id"', 'ordering_key: "id" priority: 1'),
    )
    assert {(c.kind, c.subject, c.effect) for c in found} == {
        ("METHOD_ADDED", "shop.v1.S.New", Effect.HARMLESS),
        ("FIELD_KIND_CHANGED", "shop.v1.R.n", Effect.HARMLESS),
        ("FIELD_ADDED", "shop.v1.R.more", Effect.HARMLESS),
        ("POLICY_CHANGED", "shop.v1.S.Do", Effect.HARMLESS),
    }


def test_a_key_that_is_renamed_with_its_field_stays_the_key():
    found = changed(
        ("string id = 1; int32", "string key = 1; int32"), ('_key: "id"', '_key: "key"')
    )
    assert found == {("FIELD_RENAMED", "shop.v1.R.id")}


def test_an_earlier_contract_may_come_back():
    added = ("int32 n = 2;", ""), ("KIND_OLD = 1;", ""), (ONEOF, "string name = 9;")
    assert len(changed(*added)) > 1
    assert changed(*added, known=True) == set()
    # What breaks bytes or tasks in flight breaks them in this direction as well.
    broken = ("int32 n = 2", "string n = 2"), ("rpc See(R) returns (A);", "")
    assert len(changed(*broken, known=True)) == 2


def test_a_change_of_bytes_looks_at_every_method_that_reaches_the_message():
    (found,) = changes(("fixed32 size = 1", "fixed64 size = 1"))
    assert found.look == Look(("/shop.v1.S/Do", "/shop.v1.S/See"))
    assert "new number" in found.advice


def test_the_first_contract_of_a_service_is_compared_with_nothing():
    compared = compare_with(source(BASE, SERVICE), {}, set())
    assert isinstance(compared, Comparison)
    assert review(compared, {}, now_ms=0).findings == {}


def test_a_contract_is_reviewed_as_a_whole():
    old = {SERVICE: source(BASE, SERVICE, digest="old")}
    text = BASE.replace("int32 n = 2", "string n = 2").replace("rpc See(R) returns (A);", "")
    compared = compare_with(source(text, SERVICE, digest="new"), old, set())
    assert isinstance(compared, Comparison)
    assert compared.wanted() == {
        "/shop.v1.S/Do": frozenset(Part),
        "/shop.v1.S/See": frozenset(Part),
    }
    idle = review(compared, {}, now_ms=0)
    assert {finding.change.kind for finding in idle.problems} == {"FIELD_TYPE_CHANGED"}
    waiting = WorkTask("t1", Part.UNFINISHED, "READY", create_ms=0)
    busy = review(compared, {"/shop.v1.S/See": Work((waiting,))}, now_ms=0)
    assert {f.change.kind for f in busy.problems} == {"FIELD_TYPE_CHANGED", "METHOD_REMOVED"}
    assert busy.policies


def test_a_policy_that_cannot_hold_is_invalid():
    broken = source(BASE.replace('ordering_key: "id"', 'ordering_key: "?"'), SERVICE)
    assert isinstance(compare_with(broken, {}, set()), Invalid)


def test_what_this_version_cannot_compile_any_more_waits_for_the_work_to_end():
    # As if an older scheduler had accepted it.
    old = source(BASE.replace('ordering_key: "id"', 'ordering_key: "?"'), SERVICE, digest="old")
    found = compare(old, source(BASE, SERVICE, digest="new"), SERVICE)
    assert {(c.kind, c.effect) for c in found} == {("POLICY_UNKNOWN", Effect.NEEDS_DRAIN)}


def test_the_fingerprint_is_of_what_is_declared():
    base = source(BASE, SERVICE, digest="a")
    same = source(f"// A comment.\n{BASE}", SERVICE, digest="b")
    other = source(BASE.replace("int32 n", "int64 n"), SERVICE, digest="c")
    prints = [c.fingerprint(c.services[0]) for c in (base, same, other)]
    assert prints[0] == prints[1] != prints[2]
