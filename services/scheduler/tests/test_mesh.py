"""Endpoints and policies become routes, clusters and shares."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from plait_scheduler.domain.call_policy import (
    CallPolicy,
    CallRetry,
    ClusterPolicy,
    Outlier,
    call_policy,
    cluster_policy,
)
from plait_scheduler.domain.endpoints import Address, Endpoint
from plait_scheduler.domain.mesh import Mesh, build, cluster_name
from plait_scheduler.domain.policy import Breaker, KeyKind, KeyPath, MethodPolicy, Retry

BREAKER = Breaker(20, 501, 10_000, 5_000, 60_000, 3)
POLICY = MethodPolicy(
    method="/s.S/A",
    contract="digest",
    queue="s.S",
    deadline_ms=86_400_000,
    attempt_timeout_ms=60_000,
    retry=Retry(20, 200, 60_000, 2000, frozenset({2, 4, 8, 10, 13, 14})),
    idempotency_key=None,
    idempotency_window_ms=0,
    ordering_key=None,
    priority=4,
    at_most_once=False,
    retention_ms=0,
    dead_letter_retention_ms=0,
    rate_limit=None,
    concurrency_limit=0,
    concurrency_per_key=0,
    limit_key=None,
    breaker=BREAKER,
    cache_ttl_ms=0,
)
KEY = KeyPath("id", (1,), KeyKind.STRING)


def endpoint(port: int, version: str = "1", *methods: str, lost: bool = False) -> Endpoint:
    served = methods or ("/s.S/A", "/s.S/B")
    return Endpoint(f"w{port}", Address("127.0.0.1", port), version, served, lost)


def shares(mesh: Mesh, method: str) -> dict[str, int]:
    """Weights by version."""
    routes = {each.method: each for each in mesh.services["s.S"].routes}
    return {
        name.partition("@")[2].partition("~")[0]: weight for name, weight in routes[method].weights
    }


def test_equal_workers_are_one_cluster():
    mesh = build([endpoint(1), endpoint(2)], {})
    (cluster,) = mesh.services["s.S"].clusters
    assert [each.port for each in cluster.addresses] == [1, 2]
    assert [each.method for each in mesh.services["s.S"].routes] == ["/s.S/A", "/s.S/B"]


def test_versions_share_by_their_workers():
    mesh = build([endpoint(1), endpoint(2, "2"), endpoint(3, "2")], {})
    assert shares(mesh, "/s.S/A") == {"1": 1, "2": 2}


def test_a_method_goes_to_those_that_serve_it():
    mesh = build([endpoint(1), endpoint(2, "2", "/s.S/A"), endpoint(3, "2")], {})
    assert shares(mesh, "/s.S/B") == {"1": 1, "2": 1}
    assert len(mesh.services["s.S"].clusters) == 3


def test_lost_workers_get_calls_only_where_there_are_no_others():
    lost = endpoint(1, lost=True)
    assert shares(build([lost, endpoint(2, "2")], {}), "/s.S/A") == {"2": 1}
    assert shares(build([lost, endpoint(2, "2", lost=True)], {}), "/s.S/A") == {"1": 1, "2": 1}


def test_a_worker_of_two_services_is_in_both():
    mesh = build([endpoint(1, "1", "/s.S/A", "/t.T/A")], {})
    assert list(mesh.services) == ["s.S", "t.T"]
    assert [each.method for each in mesh.services["t.T"].routes] == ["/t.T/A"]


def test_a_cluster_that_is_gone_is_empty_and_not_unknown():
    mesh = build([endpoint(1)], {})
    gone = mesh.cluster(cluster_name("s.S", "0", ["/s.S/A"]))
    assert gone is not None
    assert gone.addresses == ()
    assert mesh.cluster("s.S") is None


def test_a_version_of_any_text_makes_a_plain_name():
    odd = cluster_name("s.S", "ünïcode @ " + "x" * 900, ["/s.S/A"])
    assert odd.isascii()
    assert len(odd) < 64
    assert cluster_name("s.S", "1.2+b", []).startswith("s.S@1.2+b~")


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from("123"), st.booleans())))
def test_every_address_is_in_one_cluster_and_every_share_is_somebody(drawn):
    found = {port: endpoint(port, version, lost=lost) for port, version, lost in drawn}
    mesh = build(list(found.values()), {})
    for service in mesh.services.values():
        addresses = [each.port for cluster in service.clusters for each in cluster.addresses]
        assert sorted(addresses) == sorted(found)
        names = {cluster.name for cluster in service.clusters}
        for route in service.routes:
            assert route.weights
            assert all(name in names and weight > 0 for name, weight in route.weights)


def test_a_call_has_the_time_of_an_attempt_and_never_more_than_five_minutes():
    assert call_policy(POLICY).timeout_ms == 60_000
    assert call_policy(replace(POLICY, deadline_ms=500)).timeout_ms == 500
    assert call_policy(replace(POLICY, attempt_timeout_ms=86_400_000)).timeout_ms == 300_000


def test_only_what_may_be_repeated_is_retried():
    assert call_policy(POLICY).retry == CallRetry(("unavailable",), 3)
    keyed = replace(POLICY, idempotency_key=KEY)
    assert call_policy(keyed).retry == CallRetry(("unavailable", "internal"), 3)
    assert call_policy(replace(POLICY, at_most_once=True)).retry is None
    twice = replace(POLICY, retry=replace(POLICY.retry, max_attempts=2))
    assert call_policy(twice).retry == CallRetry(("unavailable",), 2)
    once = replace(POLICY, retry=replace(POLICY.retry, max_attempts=1))
    assert call_policy(once).retry is None
    never = replace(POLICY, retry=replace(POLICY.retry, codes=frozenset({13})))
    assert call_policy(never).retry is None
    assert call_policy(replace(never, idempotency_key=KEY)).retry == CallRetry(("internal",), 3)


def test_ejection_is_as_lenient_as_the_most_lenient_method():
    strict = replace(POLICY, breaker=Breaker(10, 100, 1_000, 9_000, 90_000, 1))
    expected = Outlier(10_000, 5_000, 60_000, 20, 51)
    assert cluster_policy([POLICY, strict]).outlier == expected
    assert cluster_policy([POLICY, replace(POLICY, breaker=None)]).outlier is None
    assert cluster_policy([]) == ClusterPolicy()


def test_calls_at_once_are_bounded_by_what_every_method_says():
    limited = replace(POLICY, concurrency_limit=3)
    assert cluster_policy([limited, limited]).requests_max == 6
    assert cluster_policy([limited, POLICY]).requests_max == 1024


def test_policies_reach_their_routes():
    mesh = build([endpoint(1)], {"s.S": [replace(POLICY, attempt_timeout_ms=7)]})
    policies = {each.method: each.policy for each in mesh.services["s.S"].routes}
    assert policies["/s.S/A"].timeout_ms == 7
    assert policies["/s.S/B"] == CallPolicy()
