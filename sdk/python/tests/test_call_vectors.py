"""The state machines of direct calls, against the vectors that every language shares."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from plait import _gradient, limiter
from plait._attempts import Hedge, HedgeDelay, Move, Retry
from plait._verdicts import for_breaker, for_limiter, verdict
from plait.retry import Backoff, Budget

_FILE = Path(__file__).parents[3] / "interop" / "vectors" / "calls.json"
_DOCUMENT = json.loads(_FILE.read_text())


class _StatusClass:
    def __init__(self, config: dict[str, Any]) -> None:
        assert not config

    def step(self, code: str, idempotent: bool, pushback_ms: int | None) -> dict[str, Any]:
        found = grpc.StatusCode[code]
        judged = verdict(found, idempotent, pushback_ms)
        budget = "failure" if judged.costs else "success" if code == "OK" else "none"
        said = {"retry": judged.retry, "budget": budget}
        return said | {"breaker": for_breaker(found), "limiter": for_limiter(found)}


class _Retry:
    def __init__(self, config: dict[str, Any]) -> None:
        self._budget = Budget(config.pop("max_tokens"), config.pop("token_ratio_permille"))
        self._deadline_ms = config.pop("deadline_ms")
        self._said = {each: config.pop(each) for each in ("max_attempts", "idempotent")}
        self._backoff = Backoff(**config)
        self._retry: Retry

    def step(self, op: str, t: int, **given: Any) -> dict[str, Any]:
        if op == "start":
            end_ms = t + self._deadline_ms
            self._retry = Retry(self._budget, end_ms=end_ms, backoff=self._backoff, **self._said)
            return {"send": 1}
        if op != "status":
            raise ValueError(f"unknown op {op}")
        given["code"] = grpc.StatusCode[given["code"]]
        found = self._retry.status(t, **given)
        tokens = {"tokens_milli": self._budget.tokens_milli}
        if found.send is None:
            return {"end": True, "stop_above": found.stop_above} | tokens
        return {"send": found.send, "at": found.at_ms} | tokens


class _Hedge:
    def __init__(self, config: dict[str, Any]) -> None:
        self._budget = Budget(config.pop("max_tokens"), config.pop("token_ratio_permille"))
        self._deadline_ms = config.pop("deadline_ms")
        self._said = config
        self._hedge: Hedge

    def step(self, op: str, t: int, **given: Any) -> dict[str, Any]:
        move = self._move(op, t, **given)
        end = None
        if move.end is not None:
            end = {"attempt": move.end.attempt, "code": move.end.code.name}
            end["stop_above"] = move.end.stop_above
        said = {"send": move.send, "wake": move.wake_ms, "cancel": move.cancel, "end": end}
        return said | {"tokens_milli": self._budget.tokens_milli}

    def _move(self, op: str, t: int, **given: Any) -> Move:
        if op == "start":
            self._hedge = Hedge(self._budget, end_ms=t + self._deadline_ms, **self._said)
            return self._hedge.start(t)
        if op == "wake":
            return self._hedge.wake(t, **given)
        if op == "refused":
            return self._hedge.refused(**given)
        if op != "status":
            raise ValueError(f"unknown op {op}")
        given["code"] = grpc.StatusCode[given["code"]]
        return self._hedge.status(t, **given)


class _HedgeDelay:
    def __init__(self, config: dict[str, Any]) -> None:
        self._delay = HedgeDelay(**config)

    def step(self, latency_ms: int) -> dict[str, Any]:
        self._delay.add(latency_ms)
        return {"delay_ms": self._delay.delay_ms}


class _Drop:
    def __init__(self, config: dict[str, Any]) -> None:
        self._gradient = _gradient.Gradient(limiter.Config(**config))

    def step(self, rtt_us: int, inflight: int, dropped: bool) -> dict[str, Any]:
        return {"limit": self._gradient.sample(rtt_us, inflight, dropped)}


class _CallLimiter:
    def __init__(self, config: dict[str, Any]) -> None:
        self._limiter = _gradient.Limiter(limiter.Config(**config))

    def step(self, op: str, **given: Any) -> dict[str, Any]:
        found = self._limiter
        said: dict[str, Any] = {}
        if op == "acquire":
            said = {"admit": found.acquire(**given)}
        elif op == "leave":
            found.leave(**given)
        elif op == "release":
            outcome = _gradient.Outcome(given.pop("outcome"))
            said = {"admitted": found.release(given.pop("t"), outcome=outcome, **given)}
        else:
            raise ValueError(f"unknown op {op}")
        return said | {
            "limit": found.limit,
            "inflight": found.inflight,
            "waiting": found.waiting,
        }


_DRIVERS: dict[str, Any] = {
    "call_limiter": _CallLimiter,
    "hedge": _Hedge,
    "hedge_delay": _HedgeDelay,
    "limiter_drop": _Drop,
    "retry": _Retry,
    "status_class": _StatusClass,
}


def test_every_kind_is_run():
    assert _DOCUMENT["schema"] == 1
    assert {vector["kind"] for vector in _DOCUMENT["vectors"]} == _DRIVERS.keys()


@pytest.mark.parametrize(
    "vector", _DOCUMENT["vectors"], ids=lambda each: f"{each['kind']}-{each['name']}"
)
def test_vector(vector):
    driver = _DRIVERS[vector["kind"]](dict(vector["config"]))
    for number, step in enumerate(vector["steps"]):
        assert driver.step(**step["in"]) == step["out"], f"step {number}: {step['in']}"


@pytest.mark.parametrize("kind", _DRIVERS)
def test_what_is_unknown_is_an_error(kind):
    config = next(each["config"] for each in _DOCUMENT["vectors"] if each["kind"] == kind)
    with pytest.raises((TypeError, ValueError)):
        _DRIVERS[kind](dict(config)).step(op="guess", t=0)
