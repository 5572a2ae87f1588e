"""The workers' journal held against what was acknowledged and answered.

A line of the journal is one execution of one attempt; a store that takes part keeps the first of a
key, as a ledger does with a unique key.
"""

from collections import defaultdict

from tests.fault.journal import Execution
from tests.fault.outcome import Outcome
from tests.fault.traffic import Traffic


def audit(outcome: Outcome, traffic: Traffic, lines: list[Execution], *, zombies: bool) -> None:
    """Checks all that must hold once the traffic has ended.

    `zombies`: whether a worker may have gone on after its lease was lost, so that a line under an
    old token can follow one under a newer.
    """
    for failure in traffic.failures:
        outcome.violated(f"ended otherwise: {failure}")
    few = traffic.unread * 100 <= traffic.ended
    outcome.check(few, f"{traffic.unread} results were gone before they were read")
    by_key: defaultdict[str, list[Execution]] = defaultdict(list)
    for line in lines:
        by_key[line.key].append(line)
    for key, task in traffic.entries.items():
        _entry(outcome, key, task, traffic.lengths.get(key), by_key[key], zombies=zombies)
    for key in by_key.keys() - traffic.entries.keys():
        outcome.violated(f"{key}: executed and never acknowledged, though the traffic has ended")
    _order(outcome, by_key)
    outcome.check(
        traffic.acknowledged == traffic.ended,
        f"{traffic.acknowledged} acknowledged, {traffic.ended} ended",
    )


def _entry(
    outcome: Outcome,
    key: str,
    task: str,
    length: int | None,
    lines: list[Execution],
    *,
    zombies: bool,
) -> None:
    if not lines:
        outcome.violated(f"{key}: acknowledged as {task} and never executed")
        return
    outcome.check({line.task for line in lines} == {task}, f"{key}: two tasks, {lines}")
    tokens = [line.token for line in lines]
    outcome.check(len(set(tokens)) == len(tokens), f"{key}: a lease was used twice, {lines}")
    if not zombies:
        outcome.check(tokens == sorted(tokens), f"{key}: an old token after a new one, {lines}")
    if length is not None:
        said = {line.length for line in lines}
        outcome.check(length in said, f"{key}: answered {length}, executions said {said}")


def _order(outcome: Outcome, by_key: dict[str, list[Execution]]) -> None:
    """The first executions of an account are in the order of submission, without a gap."""
    place: defaultdict[str, int] = defaultdict(int)
    for lines in by_key.values():
        if not lines:
            continue
        first = lines[0]
        place[first.account] += 1
        expected = place[first.account]
        outcome.check(first.number == expected, f"{first.key}: first executed at place {expected}")
