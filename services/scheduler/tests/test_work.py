"""Which tasks in flight a change concerns, and in which words it is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.change import Change, Effect, Look, Part
from plait_scheduler.domain.words import sentence
from plait_scheduler.domain.work import TASKS_MAX, Work, WorkTask, judge

METHOD = "/s.S/M"
NOW = 1_000_000


def task(number: int, **fields) -> WorkTask:
    return WorkTask(
        **{
            "id": f"t{number:05}",
            "part": Part.UNFINISHED,
            "state": "READY",
            "create_ms": NOW - 1000 + number,
            **fields,
        }
    )


def drained(look: Look) -> Change:
    return Change("KIND", "s.S.M", "was and is", Effect.NEEDS_DRAIN, "wait", look)


def affected(look: Look, *tasks: WorkTask, more: bool = False) -> list[str]:
    finding = judge(drained(look), {METHOD: Work(tasks, more)}, NOW)
    assert (finding.effect is Effect.NEEDS_DRAIN) == (finding.affected is not None)
    return list(finding.affected.first) if finding.affected else []


def test_without_tasks_a_change_may_come():
    finding = judge(drained(Look((METHOD,))), {}, NOW)
    assert (finding.effect, finding.affected) == (Effect.HARMLESS, None)


def test_what_is_refused_is_refused_without_tasks():
    change = Change("KIND", "s.S.M", "was", Effect.REFUSED, "no", Look((METHOD,)))
    assert judge(change, {}, NOW).effect is Effect.REFUSED


@pytest.mark.parametrize("part", list(Part))
def test_a_part_is_looked_at_only_if_it_minds(part: Part):
    tasks = [task(number, part=each) for number, each in enumerate(Part)]
    (found,) = affected(Look((METHOD,), frozenset({part})), *tasks)
    assert found == f"t{list(Part).index(part):05}"


def test_an_age_counts_from_acceptance_and_of_dead_letters_from_their_end():
    look = Look((METHOD,), age_ms=500)
    young = task(1, create_ms=NOW - 499)
    old = task(2, create_ms=NOW - 500)
    dead = task(3, part=Part.DEAD_LETTER, create_ms=NOW - 900, end_ms=NOW - 499)
    long_dead = task(4, part=Part.DEAD_LETTER, create_ms=NOW - 900, end_ms=NOW - 500)
    assert set(affected(look, young, old, dead, long_dead)) == {"t00002", "t00004"}


def test_attempts_count():
    assert affected(Look((METHOD,), attempts=2), task(1, attempt=1), task(2, attempt=2)) == [
        "t00002"
    ]


def test_what_was_not_looked_at_to_its_end_may_be_concerned():
    finding = judge(drained(Look((METHOD,))), {METHOD: Work((), more=True)}, NOW)
    assert finding.effect is Effect.NEEDS_DRAIN
    assert "not all tasks could be looked at" in sentence(finding)


def test_the_sentence_counts_and_names_the_oldest():
    tasks = [*(task(number) for number in range(12)), task(50, state="RUNNING")]
    tasks += [task(60, part=Part.DEAD_LETTER, state="FAILED")]
    tasks += [task(70, part=Part.RECORDED, state="SUCCEEDED")]
    finding = judge(drained(Look((METHOD,))), {METHOD: Work(tuple(reversed(tasks)))}, NOW)
    first = ", ".join(f"t{number:05}" for number in range(10))
    assert sentence(finding) == (
        "was and is; 15 tasks: 1 in the dead letters, 12 READY, 1 RUNNING, 1 on record in "
        f"unfinished flows; the oldest for 1 s: {first}, ...; wait"
    )


def test_so_many_are_counted_exactly_and_not_one_more():
    for count, said in ((TASKS_MAX, "10000 tasks"), (TASKS_MAX + 1, "more than 10000 tasks")):
        tasks = tuple(task(number, create_ms=0) for number in range(count))
        work = {METHOD: Work(tasks, more=count > TASKS_MAX)}
        assert f"; {said}: 10000 READY" in sentence(judge(drained(Look((METHOD,))), work, NOW))


TASKS = st.lists(
    st.builds(
        WorkTask,
        id=st.text("0123", min_size=3, max_size=3),
        part=st.sampled_from(Part),
        state=st.sampled_from(["READY", "RUNNING", "FAILED"]),
        create_ms=st.integers(0, NOW),
        end_ms=st.integers(0, NOW),
        attempt=st.integers(0, 5),
    ),
    max_size=30,
).map(tuple)
LOOKS = st.builds(
    Look,
    methods=st.just((METHOD,)),
    parts=st.frozensets(st.sampled_from(Part), min_size=1),
    age_ms=st.integers(0, NOW),
    attempts=st.integers(0, 5),
)


@given(TASKS, TASKS, LOOKS)
def test_more_work_never_makes_a_change_easier(few, others, look):
    alone = judge(drained(look), {METHOD: Work(few)}, NOW)
    together = judge(drained(look), {METHOD: Work(few + others)}, NOW)
    counts = [each.affected.total if each.affected else 0 for each in (alone, together)]
    assert counts == sorted(counts)
    if alone.effect is Effect.NEEDS_DRAIN:
        assert together.effect is Effect.NEEDS_DRAIN


@given(TASKS, LOOKS)
def test_what_is_counted_is_what_is_concerned(tasks, look):
    finding = judge(drained(look), {METHOD: Work(tasks)}, NOW)
    wide = judge(drained(Look((METHOD,))), {METHOD: Work(tasks)}, NOW)
    assert (wide.affected.total if wide.affected else 0) == len(tasks)
    if finding.affected is not None:
        assert 0 < finding.affected.total <= len(tasks)
        assert set(finding.affected.first) <= {each.id for each in tasks}
