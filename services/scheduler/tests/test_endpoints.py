"""Endpoints come with their workers, go at once when withdrawn, and outlive what says nothing of
them."""

import pytest

from plait_scheduler.domain.endpoints import LOST_MS, RETURN_MS, Address, Endpoints, parse
from plait_scheduler.domain.events import Figures, WorkerAttached, WorkerDetached

FIGURES = Figures(1000, ())


def attached(worker: str, endpoint: str, version: str = "1") -> WorkerAttached:
    methods = ("/s.S/B", "/s.S/A")
    return WorkerAttached(worker, worker, version, "test/0", methods, 1, endpoint=endpoint)


def workers(endpoints: Endpoints) -> list[str]:
    return [each.worker for each in endpoints.all()]


@pytest.fixture
def endpoints() -> Endpoints:
    """Two workers, a and b, in a complete picture."""
    made = Endpoints()
    made.reset()
    assert made.apply(attached("a", "127.0.0.1:1"), 0)
    assert made.apply(attached("b", "127.0.0.1:2"), 0)
    assert made.apply(FIGURES, 0)
    return made


def test_nothing_is_said_before_everybody_was_told():
    endpoints = Endpoints()
    endpoints.reset()
    endpoints.apply(attached("a", "127.0.0.1:1"), 0)
    assert not endpoints.complete
    assert endpoints.apply(FIGURES, 0)
    assert endpoints.complete
    assert endpoints.all()[0].methods == ("/s.S/A", "/s.S/B")
    assert not endpoints.apply(FIGURES, 1)


def test_what_is_called_is_a_method_and_no_route_of_tasks():
    endpoints = Endpoints()
    routes = ("/s.S/B@2", "/s.S/A", "/s.S/B")
    endpoints.apply(WorkerAttached("a", "a", "", "", routes, 1, endpoint="127.0.0.1:1"), 0)
    assert endpoints.all()[0].methods == ("/s.S/A", "/s.S/B")


def test_one_that_drains_goes_at_once(endpoints: Endpoints):
    assert endpoints.apply(attached("a", ""), 1)
    assert workers(endpoints) == ["b"]
    assert not endpoints.apply(attached("a", ""), 2)
    assert not endpoints.apply(WorkerDetached("a", "it is gone"), 3)
    assert workers(endpoints) == ["b"]


def test_a_lost_worker_is_the_last_resort_for_a_while(endpoints: Endpoints):
    assert endpoints.apply(WorkerDetached("a", "the stream broke"), 10)
    assert {each.worker: each.lost for each in endpoints.all()} == {"a": True, "b": False}
    assert not endpoints.apply(FIGURES, 10 + LOST_MS - 1)
    assert endpoints.apply(FIGURES, 10 + LOST_MS)
    assert workers(endpoints) == ["b"]


def test_one_that_comes_back_in_time_is_as_before(endpoints: Endpoints):
    endpoints.apply(WorkerDetached("a", "the stream broke"), 10)
    assert endpoints.apply(attached("a", "127.0.0.1:1"), 20)
    assert not endpoints.apply(FIGURES, 10 * LOST_MS)
    assert workers(endpoints) == ["a", "b"]
    assert not endpoints.apply(attached("a", "127.0.0.1:1"), 30)


def test_a_broker_that_is_away_withdraws_nobody(endpoints: Endpoints):
    endpoints.apply(WorkerDetached("a", "the broker stops"), 10)
    endpoints.reset()
    assert endpoints.complete
    assert workers(endpoints) == ["a", "b"]
    later = 1_000_000
    endpoints.apply(attached("b", "127.0.0.1:2"), later)
    # The picture is shown anew once it is settled, and those that stay away get their time from
    # there.
    assert endpoints.apply(FIGURES, later)
    assert not endpoints.apply(FIGURES, later + RETURN_MS - 1)
    assert workers(endpoints) == ["a", "b"]
    assert endpoints.apply(FIGURES, later + RETURN_MS)
    assert workers(endpoints) == ["b"]


def test_an_address_has_one_worker(endpoints: Endpoints):
    endpoints.apply(WorkerDetached("a", "killed"), 10)
    assert endpoints.apply(attached("c", "127.0.0.1:1"), 20)
    assert workers(endpoints) == ["c", "b"]


def test_another_version_is_news(endpoints: Endpoints):
    assert endpoints.apply(attached("a", "127.0.0.1:1", "2"), 10)
    assert [each.version for each in endpoints.all()] == ["2", "1"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("[::1]:65535", Address("::1", 65535)),
        ("", None),
        # gRPC's clients reject a whole cluster for one name in it.
        ("localhost:80", None),
        ("0.0.0.0:80", None),
        ("[::]:80", None),
        ("127.0.0.1:0", None),
        ("127.0.0.1:65536", None),
        ("127.0.0.1:x", None),
        ("127.0.0.1", None),
    ],
)
def test_only_addresses_can_be_called(text: str, address: Address | None):
    assert parse(text) == address
