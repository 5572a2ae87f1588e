"""Direct calls follow the shares of rollouts."""

from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.mesh import build
from plait_scheduler.domain.mesh_shares import shared
from plait_scheduler.domain.rollout import Split, Sticky
from services.scheduler.tests.test_mesh import endpoint, shares


def split(share: int, version: str = "2") -> dict[str, Split]:
    return {"s.S": Split("s.S", version, share, Sticky.TASK, "salt")}


def weights(share: int, *workers: str) -> dict[str, int]:
    """By version, with a worker for each that is named."""
    endpoints = [endpoint(port, version) for port, version in enumerate(workers, 1)]
    return shares(shared(build(endpoints, {}), endpoints, split(share)), "/s.S/A")


def test_a_version_gets_its_share_however_many_workers_it_has():
    assert weights(500, "1", "2", "2") == {"1": 950_000, "2": 50_000}
    assert weights(500, "1", "1", "3", "2") == {"1": 633_333, "3": 316_666, "2": 50_000}


def test_all_or_nothing():
    assert weights(0, "1", "2") == {"1": 1_000_000}
    assert weights(10_000, "1", "2") == {"2": 1_000_000}


def test_a_version_without_a_share_stays_known_to_callers():
    endpoints = [endpoint(1, "1"), endpoint(2, "2")]
    plain = build(endpoints, {})

    def known(share: int) -> set[str]:
        routes = shared(plain, endpoints, split(share)).services["s.S"].routes
        return {name for route in routes for name, _ in route.weights}

    # By a route that nobody calls.
    assert shares(shared(plain, endpoints, split(0)), "/s.S/") == {"2": 1}
    assert shares(shared(plain, endpoints, split(10_000)), "/s.S/") == {"1": 1}
    assert (
        known(0)
        == known(10_000)
        == known(5_000)
        == {each.name for each in plain.services["s.S"].clusters}
    )
    methods = [route.method for route in shared(plain, endpoints, split(1)).services["s.S"].routes]
    assert "/s.S/" not in methods


def test_a_side_without_workers_leaves_everything_to_the_other():
    assert weights(5_000, "1", "1") == {"1": 2}
    assert weights(5_000, "2") == {"2": 1}
    # A call cannot wait for others, as a task can.
    assert weights(0, "2") == {"2": 1}


def test_other_services_stay_as_they_are():
    endpoints = [endpoint(1, "1", "/t.T/A"), endpoint(2, "2", "/t.T/A")]
    mesh = build(endpoints, {})
    assert shared(mesh, endpoints, split(100)) == mesh


@given(
    st.lists(st.tuples(st.sampled_from("123"), st.booleans()), min_size=1),
    st.integers(0, 10_000),
)
def test_every_call_goes_to_somebody(drawn: list[tuple[str, bool]], share: int):
    endpoints = [endpoint(p, version, lost=lost) for p, (version, lost) in enumerate(drawn, 1)]
    mesh = shared(build(endpoints, {}), endpoints, split(share))
    for route in mesh.services["s.S"].routes:
        assert route.weights
        assert all(weight > 0 for _, weight in route.weights)
        assert sum(weight for _, weight in route.weights) < 1 << 32
