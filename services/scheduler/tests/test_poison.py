"""Tasks that were there more than once when a process died are suspects."""

from plait_scheduler.domain.poison import SUSPECTS_MAX, TASKS_MAX, Suspicion


def test_one_death_is_nobody_s_fault():
    suspicion = Suspicion()
    assert suspicion.died(["t1", "t2"]) == []
    assert suspicion.suspects() == []


def test_who_was_there_twice_is_told_once_and_most_deaths_come_first():
    suspicion = Suspicion()
    suspicion.died(["t1", "t2"])
    assert suspicion.died(["t2", "t3"]) == ["t2"]
    assert suspicion.died(["t1", "t2"]) == ["t1"]
    assert suspicion.suspects() == ["t2", "t1"]


def test_what_is_remembered_is_bounded():
    suspicion = Suspicion()
    suspicion.died(["first"])
    suspicion.died(f"t{number}" for number in range(TASKS_MAX))
    assert suspicion.died(["first"]) == []
    suspicion.died(f"t{number}" for number in range(TASKS_MAX))
    assert len(suspicion.suspects()) == SUSPECTS_MAX
