"""How answers to boundary messages are compared and judged, and what reports say of them."""

import asyncio
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from plait._boundary.answers import Answer, differences, of_error
from plait._boundary.cases import Case
from plait._boundary.check import Check, Report, Wanted
from plait._boundary.mesh import Seen, Sender, WorkerOf, _last_attempt
from plait._boundary.report import as_data, junit, summary
from plait.v1 import task_pb2
from testing.v1 import echo_pb2 as pb

NAN = float("nan")


def facts(values: pb.Scalars, ignore: Sequence[str] = ()) -> dict[str, Any]:
    response = pb.ScalarsResponse(values=values).SerializeToString()
    return Answer(response=response).facts(pb.ScalarsResponse, ignore)


def with_unknown(values: pb.Scalars) -> pb.Scalars:
    """The same, and a field that nobody knows."""
    return pb.Scalars.FromString(values.SerializeToString() + b"\xf8\xff\xff\xff\x0f\x01")


def test_equal_answers_are_equal_whatever_their_bytes():
    assert facts(pb.Scalars(double_value=NAN)) == facts(pb.Scalars(double_value=NAN))
    assert facts(pb.Scalars(float_value=-0.0)) == facts(pb.Scalars())
    first = pb.Scalars(counts={"a": 1, "b": 2}).SerializeToString(deterministic=True)
    swapped = first[len(first) // 2 :] + first[: len(first) // 2]
    assert first != swapped
    assert facts(pb.Scalars.FromString(first)) == facts(pb.Scalars.FromString(swapped))


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        (pb.Scalars(int32_value=1), pb.Scalars(int32_value=2), "values.int32_value"),
        (pb.Scalars(double_value=NAN), pb.Scalars(double_value=1), "values.double_value"),
        (pb.Scalars(optional_value=0), pb.Scalars(), "values.optional_value"),
        (pb.Scalars(nested=pb.Scalars()), pb.Scalars(), "values.nested"),
        (pb.Scalars(texts=["a", "b"]), pb.Scalars(texts=["a", "c"]), "values.texts[1]"),
        (pb.Scalars(counts={"a": 1}), pb.Scalars(counts={"a": 2}), "values.counts['a']"),
        (pb.Scalars(choice_text=""), pb.Scalars(choice_number=0), "values.choice_text"),
        (with_unknown(pb.Scalars()), pb.Scalars(), "values.?536870911"),
    ],
)
def test_a_difference_is_told_by_its_path(one, other, path):
    found = differences(facts(one), facts(other))
    assert found[0][0] == path
    assert found[0][1] != found[0][2]


def test_what_is_ignored_is_not_compared():
    one, other = pb.Scalars(int32_value=1, texts=["a"]), pb.Scalars(int32_value=2, texts=["a"])
    assert facts(one, ["values.int32_value"]) == facts(other, ["values.int32_value"])
    assert facts(one, ["int32_value"]) != facts(other, ["int32_value"])
    assert facts(one, ["values"]) == facts(pb.Scalars(texts=["b"]), ["values"])
    nested = [pb.Scalars(nested=each) for each in (with_unknown(one), one)]
    assert facts(nested[0]) != facts(nested[1])
    assert facts(nested[0], ["?"]) == facts(nested[1], ["?"])


def test_errors_are_compared_by_code_and_reason_only():
    def error(code: int, message: str, reason: str = "", domain: str = "plait") -> Answer:
        made = status_pb2.Status(code=code, message=message)
        if reason:
            packed = any_pb2.Any()
            packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
            made.details.append(packed)
        return of_error(made, 0.1)

    def said(answer: Answer) -> dict[str, Any]:
        return answer.facts(pb.ScalarsResponse, ())

    assert said(error(5, "no such order")) == said(error(5, "order not found"))
    assert said(error(5, "a")) != said(error(3, "a"))
    assert said(error(9, "a", "EMPTY", "shop")) != said(error(9, "a"))
    assert error(9, "a", "EMPTY", "shop").reason == "shop/EMPTY"
    expired = error(4, "the deadline of the task has passed", "TASK_EXPIRED")
    assert said(expired) == said(error(4, "context deadline exceeded"))
    assert said(expired) != said(error(4, "a", "SLOW", "shop"))
    assert said(Answer(response=b"\xff")) == {"": "OK", "bytes": "ff"}


def task(state: str, *events: tuple[str, str]) -> task_pb2.Task:
    """A task with events a second apart: cause and worker."""
    made = task_pb2.Task(state=task_pb2.TaskState.Value(f"TASK_STATE_{state}"))
    for second, (cause, worker) in enumerate(events):
        made.events.add(cause=cause, worker=worker).time.FromSeconds(second)
    return made


@pytest.mark.parametrize(
    ("shown", "ended"),
    [
        (task("RUNNING", ("SUBMITTED", ""), ("STARTED", "a")), None),
        (task("SUCCEEDED", ("SUBMITTED", ""), ("STARTED", "a"), ("COMPLETED", "a")), ("a", 1.0)),
        (task("BACKOFF", ("SUBMITTED", ""), ("STARTED", "a"), ("FAILED", "a")), ("a", 1.0)),
        # The error is that of the attempt before, whether the next one was received or not.
        (task("READY", ("STARTED", "a"), ("FAILED", "a"), ("STARTED", "b")), ("a", 1.0)),
        (task("RUNNING", ("STARTED", "a"), ("FAILED", "a"), ("STARTED", "b")), ("a", 1.0)),
        (
            task("FAILED", ("STARTED", "a"), ("FAILED", "a"), ("STARTED", "b"), ("FAILED", "b")),
            ("b", 1.0),
        ),
        (task("EXPIRED", ("SUBMITTED", ""), ("STARTED", "a"), ("DEADLINE", "a")), ("a", 1.0)),
        # Nobody had it when its time was over.
        (task("EXPIRED", ("SUBMITTED", ""), ("DEADLINE", "")), None),
        (task("EXPIRED", ("STARTED", "a"), ("FAILED", "a"), ("DEADLINE", "")), None),
    ],
)
def test_an_answer_is_that_of_who_ended_the_attempt(shown, ended):
    assert _last_attempt(shown) == ended


class Told(Sender):
    """A sender whose workers have answered already."""

    def __init__(self, *seen: Seen) -> None:
        self.seen = list(seen)
        self.again: list[str] = []
        self.then = OK

    async def send(self, cases: Any, wanted: frozenset[str]) -> list[Seen]:
        return self.seen

    async def send_again(self, cases: Sequence[Seen], wanted: frozenset[str]) -> None:
        for each in cases:
            self.again.append(each.case.name)
            for worker in wanted - each.answers.keys():
                each.answers[worker] = self.then


def judging(*seen: Seen, allow_uncovered: bool = False) -> Check:
    """A test of three workers that have answered."""
    workers = [WorkerOf(each, f"the {each}", "plait-x/1", 4) for each in ("first", "second", "odd")]
    wanted = Wanted(pb.EchoResponse, allow_uncovered=allow_uncovered)
    sender = Told(*seen)
    sender.submitted = 3
    return Check(sender, "a.v1.A/B", [each.case for each in seen], workers, wanted)


def judged(*seen: Seen, allow_uncovered: bool = False) -> Report:
    """What is said of them."""
    check = judging(*seen, allow_uncovered=allow_uncovered)
    asyncio.run(check.answers())
    return check.report


OK = Answer(response=pb.EchoResponse(payload=b"a").SerializeToString())
INVALID = Answer(3, message="too long")


def test_who_differs_is_who_is_not_with_the_most():
    other = Answer(response=pb.EchoResponse(payload=b"b").SerializeToString())
    report = judged(Seen(Case("c", b""), {"odd": other, "first": OK, "second": OK}))
    (failure,) = report.failures
    assert (failure.kind, failure.workers) == ("DIFFERS", ("the odd",))
    assert "payload: b'a' there, b'b' here" in failure.text
    assert [(each.answered, each.failed) for each in report.tallies] == [(1, 0), (1, 0), (1, 1)]


def test_a_worker_that_was_not_reached_is_a_failure_unless_that_is_allowed():
    seen = Seen(Case("c", b""), {"first": OK, "second": OK})
    (failure,) = judged(seen).failures
    assert (failure.kind, failure.workers) == ("NOT_COVERED", ("the odd",))
    allowed = judged(seen, allow_uncovered=True)
    assert not allowed.failures
    assert allowed.tallies[2].uncovered == 1


def test_who_alone_was_late_is_asked_again():
    late = Answer(4, "TASK_EXPIRED")
    answers = {"first": OK, "second": OK, "odd": late}
    assert not judged(Seen(Case("c", b""), dict(answers))).failures
    check = judging(Seen(Case("c", b""), dict(answers)))
    told = check._sender
    assert isinstance(told, Told)
    told.then = late
    asyncio.run(check.answers())
    (failure,) = check.report.failures
    assert (failure.kind, failure.workers) == ("DIFFERS", ("the odd",))
    # Where all are late, nobody is asked again.
    together = judging(Seen(Case("c", b""), dict.fromkeys(answers, late)))
    asyncio.run(together.answers())
    assert isinstance(together._sender, Told)
    assert together._sender.again == []
    assert not together.report.failures


def test_who_answered_nothing_is_left_out_of_the_next_method():
    seen = [Seen(Case(f"c{number}", b""), {"first": OK, "second": OK}) for number in range(9)]
    report = judged(*seen)
    text = summary([report], "")
    assert text.count("NOT_COVERED by the odd: c") == 3
    assert "NOT_COVERED by the odd: 6 more cases" in text
    gone: set[str] = set()
    first = judging(*seen)
    asyncio.run(first.answers(gone))
    assert gone == {"odd"}
    after = judging(*seen)
    asyncio.run(after.answers(gone))
    assert after.report.failures == []
    assert after.report.notes == ["the odd is left out: it answers no more"]


def test_what_breaks_a_rule_is_answered_invalid_argument():
    case = Case("c", b"", "max_len 3")
    assert not judged(Seen(case, {"first": INVALID, "second": INVALID, "odd": INVALID})).failures
    lenient = judged(Seen(case, {"first": OK, "second": OK, "odd": OK}))
    (failure,) = lenient.failures
    assert failure.kind == "BREAKS_RULE"
    assert "max_len 3" in failure.text
    both = judged(Seen(case, {"first": INVALID, "second": INVALID, "odd": OK}))
    assert [(each.kind, each.workers) for each in both.failures] == [
        ("DIFFERS", ("the odd",)),
        ("BREAKS_RULE", ("the odd",)),
    ]


def test_what_the_broker_refuses_is_a_failure():
    (failure,) = judged(Seen(Case("c", b""), refused="TOO_LARGE: it is")).failures
    assert (failure.kind, failure.text) == ("REFUSED", "the broker: TOO_LARGE: it is")


def test_reports_name_the_case_the_worker_and_the_command():
    name = "a.v1.A.text = string ' NUL \x00"
    report = judged(Seen(Case(name, b""), {"first": OK, "second": OK, "odd": INVALID}))
    text = summary([report], "plait contract test --yes")
    assert "DIFFERS by the odd" in text
    assert "plait contract test --yes --method a.v1.A/B --case 'a.v1.A.text" in text
    assert as_data(report)["workers"][2]["failed"] == 1
    suite = ElementTree.fromstring(junit([report]))[0]
    assert (suite.get("name"), suite.get("failures")) == ("a.v1.A/B", "1")
    said = suite[0].find("failure")
    assert said is not None
    assert "too long" in (said.text or "")
