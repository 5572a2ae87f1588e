"""The state machines of calls, against the vectors that every language shares."""

import json
from pathlib import Path
from typing import Any

import pytest

from plait import _gradient, limiter
from plait.breaker import Breaker, Config, Outcome
from plait.deadline import Policy
from plait.retry import Backoff, Budget

_FILE = Path(__file__).parents[3] / "interop" / "vectors" / "resilience.json"
_DOCUMENT = json.loads(_FILE.read_text())


class _BreakerDriver:
    def __init__(self, config: dict[str, int]) -> None:
        self._breaker = Breaker(Config(**config))

    def step(self, given: dict[str, Any]) -> dict[str, Any]:
        if given["op"] == "acquire":
            permit = self._breaker.acquire(given["t"])
            out: dict[str, Any] = {"allow": permit.allow, "state": permit.state}
            if permit.allow:
                return out | {"gen": permit.generation}
            return out | {"retry_after_ms": permit.retry_after_ms}
        if given["op"] == "report":
            counted = self._breaker.report(given["t"], given["gen"], Outcome(given["outcome"]))
            return {"state": self._breaker.state, "counted": counted}
        raise ValueError(f"unknown op {given['op']}")


class _BudgetDriver:
    def __init__(self, config: dict[str, int]) -> None:
        self._budget = Budget(**config)

    def step(self, given: dict[str, Any]) -> dict[str, Any]:
        op = given["op"]
        if op == "may_retry":
            return {"allow": self._budget.may_retry(), "tokens_milli": self._budget.tokens_milli}
        if op == "failure":
            self._budget.failure()
        elif op == "success":
            self._budget.success()
        elif op != "ignored":
            raise ValueError(f"unknown op {op}")
        return {"tokens_milli": self._budget.tokens_milli}


class _BackoffDriver:
    def __init__(self, config: dict[str, int]) -> None:
        self._backoff = Backoff(**config)

    def step(self, given: dict[str, Any]) -> dict[str, Any]:
        rnd_ppm = given.get("rnd_ppm", 0)
        return {
            "delay_ms": self._backoff.delay_ms(given["attempt"], rnd_ppm, given.get("pushback_ms"))
        }


class _DeadlineDriver:
    def __init__(self, config: dict[str, int]) -> None:
        self._budget = Policy(**config)

    def step(self, given: dict[str, Any]) -> dict[str, Any]:
        timeout = self._budget.timeout_ms(given["inbound_left_ms"], given["want_ms"])
        return {"refuse": "DEADLINE_EXCEEDED"} if timeout is None else {"timeout_ms": timeout}


class _LimiterDriver:
    def __init__(self, config: dict[str, int]) -> None:
        self._gradient = _gradient.Gradient(limiter.Config(**config))

    def step(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"limit": self._gradient.sample(given["rtt_us"], given["inflight"])}


_DRIVERS: dict[str, Any] = {
    "backoff": _BackoffDriver,
    "breaker": _BreakerDriver,
    "deadline": _DeadlineDriver,
    "limiter": _LimiterDriver,
    "retry_budget": _BudgetDriver,
}


# What a step of each kind may say. More would be an operation that the driver does not know.
_SAID = {
    "backoff": {"attempt", "rnd_ppm", "pushback_ms"},
    "breaker": {"op", "t", "gen", "outcome"},
    "deadline": {"inbound_left_ms", "want_ms"},
    "limiter": {"rtt_us", "inflight"},
    "retry_budget": {"op"},
}


def _step(kind: str, driver: Any, given: dict[str, Any]) -> Any:
    if unknown := given.keys() - _SAID[kind]:
        raise ValueError(f"unknown op: a {kind} knows no {sorted(unknown)}")
    return driver.step(given)


def test_every_kind_is_run():
    kinds = {vector["kind"] for vector in _DOCUMENT["vectors"]}
    assert _DOCUMENT["schema"] == 1
    assert kinds == _DRIVERS.keys()


@pytest.mark.parametrize(
    "vector",
    _DOCUMENT["vectors"],
    ids=lambda each: f"{each['kind']}-{each['name']}",
)
def test_vector(vector):
    driver = _DRIVERS[vector["kind"]](vector["config"])
    for number, step in enumerate(vector["steps"]):
        assert _step(vector["kind"], driver, step["in"]) == step["out"], f"step {number}"


def test_defaults_are_those_of_the_vectors():
    configs = {vector["kind"]: vector["config"] for vector in _DOCUMENT["vectors"]}
    assert Config(**configs["breaker"]) == Config()
    assert Policy(**configs["deadline"]) == Policy()
    assert limiter.Config(**configs["limiter"]) == limiter.Config()


@pytest.mark.parametrize("kind", _DRIVERS)
def test_an_unknown_op_is_an_error(kind):
    config = next(each["config"] for each in _DOCUMENT["vectors"] if each["kind"] == kind)
    with pytest.raises(ValueError, match="unknown op"):
        _step(kind, _DRIVERS[kind](config), {"op": "guess"})


def test_an_unknown_outcome_is_an_error():
    with pytest.raises(ValueError, match="maybe"):
        Outcome("maybe")
