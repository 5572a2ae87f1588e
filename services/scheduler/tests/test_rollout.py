"""What becomes of a rollout, and what its attempts say."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain import rollout as decision
from plait_scheduler.domain.events import SideFigures, SplitFigures
from plait_scheduler.domain.rollout import Plan, Rollback, Rollout, State, Step, Sticky
from plait_scheduler.domain.rollout_evidence import (
    WINDOW_MS,
    Evidence,
    Pair,
    Sample,
    judge_errors,
    judge_latency,
    span_start,
    verdict,
)

SERVICE = "shop.v1.Orders"
METHOD = f"/{SERVICE}/Place"
PLAN = Plan(SERVICE, "2", "1", steps=(Step(100, 10_000), Step(1_000, 10_000), Step(10_000, 5_000)))
INTERNAL, CANCELLED = 13, 1
SPANS = 96


def span(ms: int) -> int:
    """As the broker counts it."""
    return max(each for each in range(SPANS) if span_start(each) <= ms)


def side(times: list[int], failed: int = 0, *, lost: int = 0, workers: int = 1) -> SideFigures:
    """Attempts with these times, the first of which failed."""
    spans = [0] * SPANS
    for ms in times:
        spans[span(ms)] += 1
    outcomes = [0] * 17
    outcomes[0], outcomes[INTERNAL] = len(times) - failed, failed
    return SideFigures(workers, tuple(outcomes), lost, sum(times), tuple(spans))


def figures(own: SideFigures, others: SideFigures, method: str = METHOD) -> SplitFigures:
    return SplitFigures(method, "2", own, others)


def pair(own: SideFigures, others: SideFigures) -> Pair:
    """With halves that are alike."""
    found = Pair()
    found.own.take(own)
    found.others.take(others)
    found.early.take(own)
    found.late.take(own)
    return found


def test_steps_are_taken_when_they_were_held_and_looked_at():
    rollout = decision.start(PLAN, 1_000)
    assert (rollout.state, rollout.share, rollout.step) == (State.RUNNING, 100, 0)
    assert decision.advance(rollout, 10_999, 50) is None
    assert decision.advance(rollout, 11_000, 49) is None
    second = decision.advance(rollout, 11_000, 50)
    assert second is not None
    assert (second.share, second.step, second.changed_ms) == (1_000, 1, 11_000)
    third = decision.advance(second, 21_000, 50)
    assert third is not None
    assert third.share == 10_000
    done = decision.advance(third, 26_000, 50)
    assert done is not None
    assert (done.state, done.reason) == (State.PROMOTED, "all steps are done")
    assert decision.advance(done, 99_000, 50) is None


def test_steps_that_end_below_everything_leave_the_rest_to_people():
    plan = replace(PLAN, steps=(Step(500, 1_000),))
    rollout = decision.advance(decision.start(plan, 0), 1_000, 50)
    assert rollout is not None
    assert (rollout.state, rollout.share, rollout.step) == (State.RUNNING, 500, 1)
    assert decision.advance(rollout, 99_000, 50) is None


def test_a_share_set_by_hand_ends_the_steps():
    rollout = decision.set_share(decision.start(PLAN, 0), 2_500, 5_000)
    assert (rollout.share, rollout.step, rollout.reason) == (2_500, 3, "set to 25 % by hand")
    assert decision.advance(rollout, 99_000, 1_000) is None


def test_what_is_over_keeps_out_the_version_that_lost():
    rollout = decision.start(PLAN, 0)
    split = decision.split(rollout)
    assert (split.version, split.share) == ("2", 100)
    for over in (decision.abort(rollout, 1, ""), decision.roll_back(rollout, 1, "bad")):
        split = decision.split(over)
        assert (split.version, split.share) == ("2", 0)
    split = decision.split(decision.promote(rollout, 1))
    assert (split.version, split.share) == ("1", 0)
    # Nobody said what was before.
    nameless = decision.start(replace(PLAN, before=""), 0)
    split = decision.split(decision.promote(nameless, 1))
    assert (split.version, split.share) == ("2", 10_000)


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (replace(PLAN, service=""), "service"),
        (replace(PLAN, service="s" * 201), "service"),
        (replace(PLAN, to=""), "to"),
        (replace(PLAN, to="1"), "to"),
        (replace(PLAN, before="v" * 201), "from"),
        (replace(PLAN, share=10_001), "share"),
        (replace(PLAN, share=-1), "share"),
        (replace(PLAN, steps=(Step(0, 1),)), "steps"),
        (replace(PLAN, steps=(Step(5, 1), Step(5, 1))), "steps"),
        (replace(PLAN, steps=(Step(5, -1),)), "steps"),
        (replace(PLAN, steps=tuple(Step(each, 1) for each in range(1, 22))), "steps"),
        (replace(PLAN, rollback=Rollback(error_margin=10_001)), "rollback.error_margin"),
        (replace(PLAN, rollback=Rollback(latency_ratio=999)), "rollback.latency_ratio"),
        (replace(PLAN, rollback=Rollback(samples_min=0)), "rollback.samples_min"),
    ],
)
def test_a_plan_that_cannot_be_is_told_by_its_field(plan: Plan, field: str):
    assert decision.faults(PLAN) == []
    assert [name for name, _ in decision.faults(plan)] == [field]


def moved(rollout: Rollout, move: str, share: int, now_ms: int) -> Rollout:
    """After a move; an advance with as many attempts as the share is."""
    match move:
        case "advance":
            return decision.advance(rollout, now_ms, share) or rollout
        case "set":
            return decision.set_share(rollout, share, now_ms)
        case "promote":
            return decision.promote(rollout, now_ms)
        case "abort":
            return decision.abort(rollout, now_ms, "why")
        case _:
            return decision.roll_back(rollout, now_ms, "bad")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["advance", "set", "promote", "abort", "back"]),
            st.integers(0, 10_000),
            st.integers(0, 30_000),
        )
    )
)
def test_whatever_happens_a_rollout_says_why(moves: list[tuple[str, int, int]]):
    rollout, now_ms = decision.start(PLAN, 0), 0
    for move, share, passed_ms in moves:
        now_ms += passed_ms
        before = rollout
        rollout = moved(rollout, move, share, now_ms)
        assert rollout.reason
        assert 0 < len(rollout.events) <= decision.EVENTS_MAX
        assert rollout.events[-1].share == rollout.share
        assert 0 <= rollout.step <= len(PLAN.steps)
        if move == "advance":
            # By itself a share only grows.
            assert rollout.share >= before.share
        found = decision.split(rollout)
        assert found.sticky is Sticky.TASK
        excluded = rollout.state is not State.RUNNING
        assert not excluded or (found.share == 0) == (found.version in {"1", "2"})


def test_a_version_that_fails_goes_back():
    bad = pair(side([10] * 60, failed=30), side([10] * 500, failed=5))
    assert "30 of 60 attempts failed" in judge_errors(bad, Rollback())
    # Too few to say.
    few = pair(side([10] * 49, failed=49), side([10] * 500))
    assert judge_errors(few, Rollback()) == ""
    alone = pair(side([10] * 60, failed=60), side([]))
    assert judge_errors(alone, Rollback()) == ""


def test_a_failure_that_both_have_is_nobodys():
    both = pair(side([10] * 200, failed=100), side([10] * 2_000, failed=1_000))
    assert judge_errors(both, Rollback()) == ""


def test_attempts_lost_with_their_worker_count_and_cancelled_ones_do_not():
    lost = pair(side([10] * 30, lost=30), side([10] * 500))
    assert judge_errors(lost, Rollback())
    outcomes = [0] * 17
    outcomes[0], outcomes[CANCELLED] = 60, 60
    cancelled = pair(SideFigures(1, tuple(outcomes)), side([10] * 500))
    assert judge_errors(cancelled, Rollback()) == ""


def test_a_version_that_is_slow_goes_back():
    slow = pair(side([300] * 60), side([100] * 500))
    assert "60 of 60 attempts took over" in judge_latency(slow, Rollback())
    assert judge_latency(slow, Rollback(latency_ratio=0)) == ""
    assert judge_latency(slow, Rollback(latency_ratio=4_000)) == ""
    # Some milliseconds are not worth it.
    quick = pair(side([10] * 60), side([2] * 500))
    assert judge_latency(quick, Rollback()) == ""


def test_each_method_is_judged_for_itself_and_all_together():
    evidence = Evidence()
    other = f"/{SERVICE}/Refund"
    good = figures(side([10] * 5_000), side([10] * 5_000))
    bad = figures(side([10] * 60, failed=60), side([10] * 60), other)
    evidence.observe(0, [good, bad])
    # All of one moment.
    assert verdict(evidence, Rollback()) == ""
    evidence.observe(1_000, [good, bad])
    assert verdict(evidence, Rollback()).startswith("shop.v1.Orders/Refund: 120 of 120")
    assert verdict(evidence, Rollback(off=True)) == ""
    assert evidence.workers == (1, 1)
    # Twenty methods of which each fails a little.
    evidence = Evidence()
    names = [f"/{SERVICE}/M{number}" for number in range(20)]
    for second in range(2):
        seen = [figures(side([10] * 25, failed=4), side([10] * 25), name) for name in names]
        evidence.observe(second * 1_000, seen)
    assert verdict(evidence, Rollback()).startswith("all methods: 160 of 1000")


def test_a_cold_start_is_forgiven():
    evidence = Evidence()
    for second in range(10):
        cold = second == 0
        own = side([900 if cold else 10] * 60, failed=60 if cold else 0)
        evidence.observe(second * 1_000, [figures(own, side([10] * 500))])
        assert verdict(evidence, Rollback()) == ""


def test_another_share_begins_the_versions_count_anew_and_old_attempts_are_forgotten():
    evidence = Evidence()
    evidence.observe(0, [figures(side([10] * 60, failed=60), side([10] * 60))])
    assert evidence.attempts == 60
    evidence.renew()
    assert (evidence.attempts, evidence.total().own.attempts) == (0, 0)
    others = evidence.total().others
    assert (others.attempts, others.timed) == (60, 0)
    evidence.observe(WINDOW_MS + 10_000, [])
    assert evidence.total() == Pair()


def test_spans_are_those_of_the_broker():
    starts = [span_start(number) for number in range(20)]
    assert starts == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56]
    sample = Sample()
    sample.take(side([5] * 9 + [100]))
    assert (sample.quantile_ms(0.9), sample.quantile_ms(0.91)) == (6, 112)
    assert (sample.slower_than(96), sample.slower_than(97)) == (1, 0)


def simulate(
    seed: int, own: tuple[float, float], others: tuple[float, float], seconds: int = 600
) -> int | None:
    """Generated load, looked at each second as the loop does: 5 % of 100 tasks a second go to the
    version. Each side is its share of failures and its mean time in ms, which is exponential. When
    it was rolled back, in seconds.
    """
    rng = random.Random(seed)
    evidence = Evidence()

    def some(kind: tuple[float, float], count: int) -> SideFigures:
        failed, mean_ms = kind
        times = [int(rng.expovariate(1 / mean_ms)) for _ in range(count)]
        return side(times, sum(rng.random() < failed for _ in times))

    for second in range(seconds):
        mine = sum(rng.random() < 0.05 for _ in range(100))
        evidence.observe(second * 1000, [figures(some(own, mine), some(others, 100 - mine))])
        if verdict(evidence, Rollback()):
            return second
    return None


@pytest.mark.parametrize("failed", [0.0, 0.02, 0.2])
def test_noise_does_not_roll_back(failed: float):
    same = (failed, 50.0)
    assert [simulate(seed, same, same, 120) for seed in range(4)] == [None] * 4


@pytest.mark.parametrize(
    ("own", "within"),
    [((1.0, 50.0), 20), ((0.2, 50.0), 60), ((0.1, 50.0), 200), ((0.01, 500.0), 30)],
)
def test_a_bad_version_is_found_soon(own: tuple[float, float], within: int):
    for seed in range(3):
        found = simulate(seed, own, (0.01, 50.0))
        assert found is not None
        assert found <= within, seed
