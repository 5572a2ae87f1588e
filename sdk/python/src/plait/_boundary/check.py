"""One method's contract test: all its cases through all its workers, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from google.protobuf.message import Message

from plait._boundary.answers import Answer, code_name, differences
from plait._boundary.cases import Case
from plait._boundary.mesh import Seen, Sender, WorkerOf

DEFAULT_DEADLINE_S: Final = 5.0
"""What each task has, where the command line does not say: long for a handler, short for a test."""

PATIENCE_S: Final = 3.0
"""How long a worker has, twice, to answer another message after its attempts are out of time. Its
handlers should be stopped at once; on a busy machine that takes a moment."""

_BURST_MAX: Final = 4096
_INVALID_ARGUMENT: Final = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """One case that not all workers answered as they should."""

    case: str
    """The case's name."""
    kind: str
    """DIFFERS, BREAKS_RULE, NOT_COVERED, REFUSED or OVERRUN."""
    workers: tuple[str, ...]
    """Those that it is about, by label: those that are not with the most."""
    text: str
    """What is wrong, for people; may have several lines."""


@dataclass
class Tally:
    """One worker's figures for one method."""

    worker: WorkerOf
    """Who."""
    answered: int = 0
    """Cases that it answered."""
    failed: int = 0
    """Cases that it answered otherwise than the most, or against a rule, or too late."""
    uncovered: int = 0
    """Cases that did not reach it."""


@dataclass
class Report:
    """What came of one method."""

    method: str
    """Without a leading slash."""
    cases: list[Case]
    """What was to be sent."""
    tallies: list[Tally] = field(default_factory=list)
    """By worker."""
    failures: list[Failure] = field(default_factory=list)
    """By case, in the order of the cases."""
    notes: list[str] = field(default_factory=list)
    """What could not be looked at, and why."""
    submitted: int = 0
    """Tasks in all."""


@dataclass(frozen=True)
class Wanted:
    """How a method's answers are judged."""

    response: type[Message]
    """The type of the responses."""
    ignore: Sequence[str] = ()
    """Fields of the response that may differ, such as "order.create_time"; "?": unknown fields."""
    allow_uncovered: bool = False
    """Whether a worker may go without having answered a case."""


class Check:
    """One method's test."""

    def __init__(
        self,
        sender: Sender,
        method: str,
        cases: Sequence[Case],
        workers: Sequence[WorkerOf],
        wanted: Wanted,
    ) -> None:
        """method: without a leading slash. workers: those that count."""
        self.report = Report(method, list(cases), [Tally(each) for each in workers])
        self._sender = sender
        self._ids = frozenset(each.id for each in workers)
        self._wanted = wanted
        self._seen: list[Seen] = []

    async def answers(self, gone: set[str] | None = None) -> None:
        """Sends all cases, and compares.

        gone: the ids of workers that answered nothing of a method before; they are left out, and
        more are added.
        """
        report, gone = self.report, set() if gone is None else gone
        for tally in report.tallies:
            if tally.worker.id in gone:
                report.notes.append(f"{tally.worker.label} is left out: it answers no more")
        report.tallies = [each for each in report.tallies if each.worker.id not in gone]
        self._ids -= gone
        if not self._ids:
            failure = Failure(report.method, "NOT_COVERED", (), "no worker serves it")
            report.failures.append(failure)
            return
        self._seen = await self._sender.send(report.cases, self._ids)
        # A machine that was busy for a moment is no difference: who alone was late is asked again.
        doubtful = [each for each in self._seen if _is_doubtful(each)]
        for each in doubtful:
            each.answers = {id_: said for id_, said in each.answers.items() if not said.expired}
        await self._sender.send_again(doubtful, self._ids)
        for each in self._seen:
            _judge(each, report, self._wanted)
        report.submitted = self._sender.submitted
        if any(each.answered for each in report.tallies):
            gone.update(each.worker.id for each in report.tallies if not each.answered)

    async def deadlines(self, stuck: set[str]) -> None:
        """Fills every slot of every worker with a case that runs out of time; afterwards each must
        be free to answer another one.

        After the answers of all methods, since a worker that is not may answer nothing more.
        stuck: the ids of those, from methods before; more are added.
        """
        report, ids = self.report, self._ids - stuck
        late = next((each for each in self._seen if _is_late(each, ids)), None)
        if late is None:
            return
        quick = next((each for each in self._seen if _is_quick(each, ids)), None)
        copies = self._sender.copies_to_fill()
        if quick is None:
            report.notes.append("no case is quick with every worker: overruns were not looked for")
            return
        if copies > _BURST_MAX:
            report.notes.append(f"{copies // 2} slots are too many: overruns were not looked for")
            return
        await self._sender.burst(late.case, copies)
        over = [each for each in report.tallies if each.worker.id in ids]
        for _ in range(2):
            if over:
                wanted = frozenset(each.worker.id for each in over)
                probed = await self._sender.probe(quick.case, wanted, PATIENCE_S)
                over = [each for each in over if _is_stuck(each.worker.id, probed)]
        report.submitted = self._sender.submitted
        if over:
            text = f"{2 * PATIENCE_S:g} s after its deadline the slots are still taken"
            _fail(report, late.case, "OVERRUN", over, text)
            stuck.update(each.worker.id for each in over)


def _judge(seen: Seen, report: Report, wanted: Wanted) -> None:
    case = seen.case
    if seen.refused:
        report.failures.append(Failure(case.name, "REFUSED", (), f"the broker: {seen.refused}"))
        return
    heard = [each for each in report.tallies if each.worker.id in seen.answers]
    silent = [each for each in report.tallies if each.worker.id not in seen.answers]
    for tally in heard:
        tally.answered += 1
    for tally in silent:
        tally.uncovered += 1
    if silent and not wanted.allow_uncovered:
        text = "it was sent again and again, and never reached them"
        _fail(report, case, "NOT_COVERED", silent, text)
    if not heard:
        return
    groups = _groups(seen, heard, wanted)
    if len(groups) > 1:
        odd = [tally for group in groups[1:] for tally in group]
        _fail(report, case, "DIFFERS", odd, _difference(seen, groups, wanted))
    _rule(seen, heard, report)


def _fail(report: Report, case: Case, kind: str, tallies: Sequence[Tally], text: str) -> None:
    labels = tuple(each.worker.label for each in tallies)
    report.failures.append(Failure(case.name, kind, labels, text))
    if kind != "NOT_COVERED":
        for each in tallies:
            each.failed += 1


def _groups(seen: Seen, heard: Sequence[Tally], wanted: Wanted) -> list[list[Tally]]:
    """Those that agree with each other; the largest group first."""
    groups: list[tuple[dict[str, object], list[Tally]]] = []
    for tally in heard:
        facts = seen.answers[tally.worker.id].facts(wanted.response, wanted.ignore)
        for known, group in groups:
            if known == facts:
                group.append(tally)
                break
        else:
            groups.append((facts, [tally]))
    return sorted((group for _, group in groups), key=lambda group: -len(group))


def _difference(seen: Seen, groups: Sequence[Sequence[Tally]], wanted: Wanted) -> str:
    """What each group says, and in what it differs from the first."""
    first = seen.answers[groups[0][0].worker.id]
    facts = first.facts(wanted.response, wanted.ignore)
    lines = [f"{_labels(groups[0])}: {first.text()}"]
    for group in groups[1:]:
        answer = seen.answers[group[0].worker.id]
        found = differences(facts, answer.facts(wanted.response, wanted.ignore))
        lines.append(f"{_labels(group)}: {answer.text()}")
        lines += [f"  {path}: {one} there, {other} here" for path, one, other in found]
    return "\n".join(lines)


def _labels(group: Sequence[Tally]) -> str:
    return ", ".join(each.worker.label for each in group)


def _rule(seen: Seen, heard: Sequence[Tally], report: Report) -> None:
    if not seen.case.breaks:
        return
    lenient = [each for each in heard if seen.answers[each.worker.id].code != _INVALID_ARGUMENT]
    if lenient:
        said = sorted({_said(seen.answers[each.worker.id]) for each in lenient})
        text = f"breaks the rule {seen.case.breaks}, and is answered {', '.join(said)}"
        _fail(report, seen.case, "BREAKS_RULE", lenient, f"{text}, not INVALID_ARGUMENT")


def _said(answer: Answer) -> str:
    return code_name(answer.code)


def _is_late(seen: Seen, ids: frozenset[str]) -> bool:
    return any(answer.expired for worker, answer in seen.answers.items() if worker in ids)


def _is_quick(seen: Seen, ids: frozenset[str]) -> bool:
    answers = [answer for worker, answer in seen.answers.items() if worker in ids]
    return len(answers) == len(ids) and all(
        not answer.expired and answer.took < PATIENCE_S / 5 for answer in answers
    )


def _is_stuck(worker: str, probed: Seen) -> bool:
    answer = probed.answers.get(worker)
    return answer is None or answer.expired


def _is_doubtful(seen: Seen) -> bool:
    return len({answer.expired for answer in seen.answers.values()}) == 2
