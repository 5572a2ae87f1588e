"""Feature flags: what they say for a key, and when a handler sees a change."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import plait
from plait import _flags, _run
from plait._flow import Flow
from plait.v1 import flag_service_pb2, worker_service_pb2

_FILE = Path(__file__).parents[3] / "interop" / "vectors" / "flags.json"
VECTORS = json.loads(_FILE.read_text())


def rule(name: str, share: int, **more: Any) -> flag_service_pb2.FlagRule:
    return flag_service_pb2.FlagRule(name=name, share=share, **more)


def test_the_vectors_are_of_a_known_form() -> None:
    assert VECTORS["schema"] == 1
    assert len(VECTORS["positions"]) >= 29
    assert len(VECTORS["cases"]) >= 17


@pytest.mark.parametrize("vector", VECTORS["positions"], ids=lambda each: each["name"][:16])
def test_keys_stand_where_they_stand_in_every_language(vector: dict[str, Any]) -> None:
    assert _flags.position(vector["name"], vector["key"]) == vector["position"]


@pytest.mark.parametrize("vector", VECTORS["cases"], ids=lambda each: each["why"])
def test_a_flag_says_what_it_says_in_every_language(vector: dict[str, Any]) -> None:
    said = vector["rule"] if vector["rule"] is not None else {"missing": True}
    found = _flags.is_on(
        flag_service_pb2.FlagRule(**said), vector["key"], default=vector["default"]
    )
    assert found is vector["on"]


@pytest.fixture
def run() -> Iterator[_run.Run]:
    holdings: Any = SimpleNamespace(core=None)
    served: Any = None
    made = _run.Run(holdings, served, (7, 70), b"", 0.0, None)
    token = _run.current.set(made)
    yield made
    _run.current.reset(token)


def begin(run: _run.Run, board: _flags.Board) -> None:
    run.flags, run.flags_read = board.now, {}


def test_an_attempt_sees_the_flags_of_its_beginning_and_the_next_one_the_change(
    run: _run.Run,
) -> None:
    board = _flags.Board()
    board.replace([rule("a", 10_000), rule("b", 10_000)])
    begin(run, board)
    board.change(worker_service_pb2.FlagFrame(flags=[rule("a", 0)], removed=["b"]))
    assert plait.flag("a")
    assert plait.flag("b")
    begin(run, board)
    assert not plait.flag("a")
    assert not plait.flag("b")
    assert plait.flag("b", default=True)


def test_what_an_earlier_run_read_holds_and_is_told_again(run: _run.Run) -> None:
    board = _flags.Board()
    board.replace([rule("a", 10_000), rule("c", 10_000)])
    begin(run, board)
    run.extra = worker_service_pb2.AttemptExtra(flags=[rule("a", 0), rule("b", 5)])
    flow = Flow(run.lease, lambda _: None, lambda _: None, lambda: None)
    flow.has_read(run.flags_read)
    assert not flow.options(()).parent.flags
    assert not plait.flag("a")
    assert plait.flag("c")
    assert not plait.flag("no-such-flag")
    assert not plait.flag("Not a name")
    flow.has_read(run.flags_read)
    told = flow.options(()).parent.flags
    assert [(each.name, each.share, each.missing) for each in told] == [
        ("a", 0, False),
        ("c", 10_000, False),
        ("no-such-flag", 0, True),
    ]


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ({"ordering_key": "o", "idempotency_key": "i", "flag_key": "f", "parent": 9}, "o"),
        ({"idempotency_key": "i", "flag_key": "f", "parent": 9}, "i"),
        ({"flag_key": "f", "parent": 9}, "f"),
        ({"parent": 9}, "t0000000000000009"),
        ({}, "t0000000000000007"),
        (None, "t0000000000000007"),
    ],
)
def test_a_task_reads_by_its_keys_else_by_those_of_its_flow(
    run: _run.Run, extra: dict[str, Any] | None, key: str
) -> None:
    board = _flags.Board()
    board.replace([rule("a", 0, keys_on=[key])])
    begin(run, board)
    run.extra = None if extra is None else worker_service_pb2.AttemptExtra(**extra)
    assert plait.flag("a")
    assert not plait.flag("a", key="other")
    assert plait.flag("a", key=key)


def test_a_direct_call_sees_flags_but_has_no_key() -> None:
    token = _flags.of_call.set({"all": rule("all", 10_000), "most": rule("most", 9_999)})
    try:
        assert plait.flag("all")
        assert not plait.flag("most", default=True)
        assert plait.flag("most", key="k")
    finally:
        _flags.of_call.reset(token)
    assert not plait.flag("all")
