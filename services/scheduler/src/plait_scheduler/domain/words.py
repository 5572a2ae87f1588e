"""Findings as sentences."""

from plait_scheduler.domain.units import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from plait_scheduler.domain.work import TASKS_MAX, Affected, Finding

_UNITS = ((DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "min"), (SECOND_MS, "s"))


def sentence(finding: Finding) -> str:
    """What it was and is, the tasks that mind, and what to do."""
    parts = [finding.change.description]
    if finding.affected is not None:
        parts.append(concerned(finding.affected))
    if finding.change.advice:
        parts.append(finding.change.advice)
    return "; ".join(parts)


def concerned(affected: Affected) -> str:
    """ "10000 tasks: 9990 READY, 10 RUNNING; the oldest for 3 min: t1, t2, ..." """
    if not affected.total:
        return "not all tasks could be looked at in time, so some may be concerned"
    counts = [f"{count} {_STATES.get(state, state)}" for state, count in affected.counts.items()]
    if affected.recorded:
        counts.append(f"{affected.recorded} on record in unfinished flows")
    named = ", ".join(affected.first)
    rest = ", ..." if affected.total > len(affected.first) else ""
    return f"{_many(affected)}: {', '.join(counts)}; the oldest for {_age(affected)}: {named}{rest}"


_STATES = {"FAILED": "in the dead letters"}


def _many(affected: Affected) -> str:
    if affected.more:
        most = affected.total >= TASKS_MAX
        return f"{'more than' if most else 'at least'} {affected.total} tasks"
    return "1 task" if affected.total == 1 else f"{affected.total} tasks"


def _age(affected: Affected) -> str:
    """In the largest unit that it fills."""
    for unit, name in _UNITS:
        if affected.oldest_ms >= unit:
            return f"{affected.oldest_ms // unit} {name}"
    return f"{affected.oldest_ms} ms"
