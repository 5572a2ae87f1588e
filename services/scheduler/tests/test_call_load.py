"""What clients report of direct calls, divided between the sides of rollouts."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.call_load import Load, SideLoads, sides
from plait_scheduler.domain.mesh import cluster_name
from plait_scheduler.domain.rollout import Rollback
from plait_scheduler.domain.rollout_evidence import WINDOW_MS, Evidence, verdict
from plait_scheduler.xds.load import Loads
from plait_xds import core_pb2, endpoint_pb2
from services.scheduler.tests.test_rollout import SERVICE, figures, side

OTHER = "other.v1.Service"
# Names that could be taken for one another: a version's name is a part of the next one's, or no
# plain word.
VERSIONS = ("", "2", "2.1", "2.1.0", "2~", "zwei Punkt eins")
_LOADS = st.builds(Load, *(st.integers(0, 1 << 64) for _ in range(4)))


def own(succeeded: int, failed: int, dropped: int = 0) -> Load:
    return Load(succeeded + failed, succeeded, failed, dropped)


@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from([SERVICE, OTHER]),
            st.sampled_from(VERSIONS),
            st.sampled_from([("/a",), ("/a", "/b")]),
        ),
        _LOADS,
    ),
    st.sampled_from(VERSIONS),
)
def test_each_call_is_of_one_side_and_counted_once(
    drawn: dict[tuple[str, str, tuple[str, ...]], Load], to: str
):
    found = sides({cluster_name(*key): load for key, load in drawn.items()}, {SERVICE: to})
    assert found.keys() <= {SERVICE}
    mine, rest = Load(), Load()
    for (service, version, _), load in drawn.items():
        if service == SERVICE and version == to:
            mine += load
        elif service == SERVICE:
            rest += load
    assert found.get(SERVICE, SideLoads()) == SideLoads(mine, rest)


def test_a_call_that_was_held_back_has_failed():
    load = own(5, 3, dropped=2)
    assert (load.ended, load.ended_badly) == (10, 5)


def test_what_is_reported_is_taken_once():
    loads = Loads()
    stats = endpoint_pb2.ClusterStats(cluster_name=f"{SERVICE}@2~a", total_dropped_requests=1)
    for zone in ("a", "b"):
        stats.upstream_locality_stats.add(
            locality=core_pb2.Locality(zone=zone),
            total_issued_requests=5,
            total_successful_requests=3,
            total_error_requests=2,
        )
    # Two clients.
    loads.add([stats])
    loads.add([stats])
    assert loads.take() == {f"{SERVICE}@2~a": Load(20, 12, 8, 2)}
    assert loads.take() == {}
    loads.add([stats])
    assert loads.take() == {f"{SERVICE}@2~a": Load(10, 6, 4, 1)}
    # For people nothing is ever taken.
    assert [(place, load.issued) for _, place, load in loads.all()] == [
        ("", 0),
        ("/a", 15),
        ("/b", 15),
    ]


def seen(calls: SideLoads, seconds: int = 2) -> Evidence:
    """The same in each second, and workers that had no task."""
    evidence = Evidence()
    for second in range(seconds):
        evidence.observe(second * 1_000, [figures(side([]), side([]))], calls)
    return evidence


def test_a_version_whose_calls_fail_goes_back():
    bad = SideLoads(own(0, 40), own(200, 0))
    said = verdict(seen(bad), Rollback())
    assert said.startswith("direct calls: 80 of 80 attempts failed, of other versions 0 of 400")
    assert verdict(seen(bad), Rollback(off=True)) == ""
    # All of one moment, and too few.
    assert verdict(seen(bad, 1), Rollback()) == ""
    assert verdict(seen(SideLoads(own(0, 24), own(200, 0))), Rollback()) == ""
    held_back = SideLoads(own(20, 0, dropped=20), own(200, 0))
    assert "40 of 80" in verdict(seen(held_back), Rollback())


def test_what_fails_on_both_sides_is_nobodys():
    assert verdict(seen(SideLoads(own(20, 20), own(100, 100))), Rollback()) == ""
    # Nobody else is called.
    assert verdict(seen(SideLoads(own(0, 40))), Rollback()) == ""


def test_calls_are_attempts_of_the_version_and_begin_anew_with_a_share():
    evidence = seen(SideLoads(own(0, 40), own(200, 100)))
    assert evidence.attempts == 80
    assert evidence.workers == (1, 1)
    evidence.renew()
    assert evidence.attempts == 0
    calls = evidence.calls()
    assert (calls.own.attempts, calls.others.attempts, calls.others.failed) == (0, 600, 200)
    evidence.observe(WINDOW_MS + 10_000, [])
    assert evidence.calls().others.attempts == 0


def test_calls_and_tasks_are_judged_apart():
    evidence = Evidence()
    for second in range(4):
        # Every second task fails on both sides; workers of the others alone listen.
        tasks = figures(side([10] * 60, failed=30), side([10] * 60, failed=30))
        evidence.observe(second * 1_000, [tasks], SideLoads(others=own(10_000, 0)))
        assert verdict(evidence, Rollback()) == ""
    assert evidence.total().others.attempts == 240


@pytest.mark.parametrize("failed", [0.0, 0.05, 0.3])
def test_noise_of_retried_calls_does_not_roll_back(failed: float):
    """A call that fails is tried twice more, and each attempt is for a version by chance."""
    for seed in range(4):
        rng = random.Random(seed)
        evidence = Evidence()
        for second in range(120):
            counts = [[0, 0], [0, 0]]
            for _ in range(100):
                # Whatever is wrong with it is wrong at every attempt.
                bad = rng.random() < failed
                for _ in range(3 if bad else 1):
                    counts[rng.random() < 0.05][bad] += 1
            others, mine = (own(*each) for each in counts)
            evidence.observe(second * 1_000, [], SideLoads(mine, others))
            assert verdict(evidence, Rollback()) == "", (seed, second)


@pytest.mark.parametrize(("failed", "within"), [(1.0, 25), (0.2, 60), (0.1, 200)])
def test_a_bad_version_is_found_soon_by_its_calls(failed: float, within: int):
    for seed in range(3):
        rng = random.Random(seed)
        evidence = Evidence()
        for second in range(within):
            mine = [rng.random() < failed for _ in range(5)]
            rest = [rng.random() < 0.01 for _ in range(95)]
            calls = SideLoads(own(5 - sum(mine), sum(mine)), own(95 - sum(rest), sum(rest)))
            evidence.observe(second * 1_000, [], calls)
            if verdict(evidence, Rollback()):
                break
        else:
            pytest.fail(f"seed {seed}: not found within {within} s")
