#!/usr/bin/env python3
"""Reference of the machines of a direct call: what a status means, when the next attempt is sent,
and what is shed.

The expected values are written by hand in `call_cases.py` and not computed here: `gen` writes them
and fails where this file disagrees. Time and randomness are inputs. Needs Python 3.10 or newer and
no package.

    python3 ref_calls.py check calls.json      compare every step with what this file computes
    python3 ref_calls.py gen calls.json        write the file again from the cases
"""

from __future__ import annotations

import json
import sys
from typing import Any

from call_cases import SCHEMA, cases
from ref import Backoff, Limiter, RetryBudget

ALWAYS = ("UNAVAILABLE", "ABORTED")
IDEMPOTENT = ("DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN")
FAILURES = (
    "UNAVAILABLE",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "UNKNOWN",
    "DATA_LOSS",
)


def status_class(code: str, idempotent: bool, pushback_ms: int | None) -> dict[str, Any]:
    """What one attempt's status means for the retry, the budget, the breaker and the limiter."""
    stop = pushback_ms is not None and pushback_ms < 0
    may = code in ALWAYS or (code in IDEMPOTENT and idempotent)
    may = may or (code == "RESOURCE_EXHAUSTED" and pushback_ms is not None)
    retry = may and not stop
    budget = (
        "success" if code == "OK" else "failure" if retry or (stop and code != "OK") else "none"
    )
    breaker = "ignore" if code == "CANCELLED" else "failure" if code in FAILURES else "success"
    limiter = "ok"
    if code in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"):
        limiter = "drop"
    elif code in ("UNAVAILABLE", "CANCELLED"):
        limiter = "ignore"
    return {"retry": retry, "budget": budget, "breaker": breaker, "limiter": limiter}


class StatusClass:
    """The call's columns of the table of codes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def step(self, args: dict[str, Any]) -> dict[str, Any]:
        return status_class(args["code"], args["idempotent"], args["pushback_ms"])


class Budgeted:
    """A call that pays from a budget, which outlives the call."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.budget = RetryBudget(config)

    def pay(self, budget: str) -> None:
        if budget != "none":
            self.budget.step({"op": budget})

    def may_retry(self) -> bool:
        return bool(self.budget.step({"op": "may_retry"})["allow"])


class Retry(Budgeted):
    """One attempt after the other."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.backoff = Backoff(config)
        self.deadline = self.attempt = self.since_pushback = 0

    def step(self, args: dict[str, Any]) -> dict[str, Any]:
        if args["op"] == "start":
            self.deadline = args["t"] + self.config["deadline_ms"]
            self.attempt, self.since_pushback = 1, 0
            return {"send": 1}
        if args["op"] == "status":
            return self.status(args)
        raise ValueError(f"unknown op {args['op']!r}")

    def status(self, args: dict[str, Any]) -> dict[str, Any]:
        pushback_ms = args["pushback_ms"]
        found = status_class(args["code"], self.config["idempotent"], pushback_ms)
        self.pay(found["budget"])
        tokens = {"tokens_milli": self.budget.tokens}
        end = {"end": True, "stop_above": found["budget"] == "failure"}
        if (
            not found["retry"]
            or self.attempt >= self.config["max_attempts"]
            or not self.may_retry()
        ):
            return end | tokens
        self.since_pushback = self.since_pushback + 1 if pushback_ms is None else 0
        asked = {
            "attempt": self.since_pushback + 1,
            "rnd_ppm": args["rnd_ppm"],
            "pushback_ms": pushback_ms,
        }
        wait = self.backoff.step(asked)["delay_ms"]
        if wait >= self.deadline - args["t"]:
            return end | tokens
        self.attempt += 1
        return {"send": self.attempt, "at": args["t"] + wait} | tokens


class Hedge(Budgeted):
    """Attempts beside each other: another after the delay, or at once after a failure."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.ended = True
        self.sent = self.deadline = self.last = 0
        self.last_code = ""
        self.next: int | None = None
        self.open: list[int] = []
        self.stopped = False

    def step(self, args: dict[str, Any]) -> dict[str, Any]:
        op, now = args["op"], args["t"]
        if op == "start":
            self.ended = self.stopped = False
            self.sent, self.last, self.last_code, self.open = 0, 0, "", []
            self.deadline = now + self.config["deadline_ms"]
            return self.out(send=self.send(now))
        if op not in ("wake", "status", "refused"):
            raise ValueError(f"unknown op {op!r}")
        if op != "wake" and args["attempt"] not in self.open:
            return self.out()
        if self.ended:
            return self.out()
        if op == "status":
            return self.status(now, args["attempt"], args["code"], args["pushback_ms"])
        if op == "refused":
            self.open.remove(args["attempt"])
            return self.no_more()
        if now >= self.deadline:
            return self.end(0, "DEADLINE_EXCEEDED", True)
        if self.next is not None and now >= self.next:
            return self.another(now)
        return self.out()

    def status(self, now: int, attempt: int, code: str, pushback_ms: int | None) -> dict[str, Any]:
        self.open.remove(attempt)
        found = status_class(code, True, pushback_ms)
        self.pay(found["budget"])
        stop = pushback_ms is not None and pushback_ms < 0 and code != "OK"
        if not found["retry"] and not (stop and status_class(code, True, 0)["retry"]):
            return self.end(attempt, code, stop)
        self.last, self.last_code = attempt, code
        if stop:
            self.stopped, self.next = True, None
        elif pushback_ms is not None:
            self.plan(now + pushback_ms)
        elif not self.stopped and self.sent < self.config["max_attempts"]:
            return self.another(now)
        return self.out() if self.open or self.next is not None else self.end(attempt, code, True)

    def another(self, now: int) -> dict[str, Any]:
        """Sends the next where there is time and the budget has it; a refusal is for good."""
        if now < self.deadline and self.may_retry():
            return self.out(send=self.send(now))
        return self.no_more()

    def no_more(self) -> dict[str, Any]:
        """Those under way go on."""
        self.stopped, self.next = True, None
        return self.out() if self.open else self.end(self.last, self.last_code, True)

    def send(self, now: int) -> int:
        self.sent += 1
        self.open.append(self.sent)
        self.plan(now + self.config["delay_ms"])
        return self.sent

    def plan(self, at: int) -> None:
        more = self.sent < self.config["max_attempts"] and not self.stopped
        self.next = at if more and at < self.deadline else None

    def end(self, attempt: int, code: str, stop_above: bool) -> dict[str, Any]:
        cancel, self.open, self.next, self.ended = self.open, [], None, True
        return self.out(
            cancel=cancel, end={"attempt": attempt, "code": code, "stop_above": stop_above}
        )

    def out(
        self,
        send: int | None = None,
        cancel: list[int] | None = None,
        end: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        wake = None if self.ended else self.deadline if self.next is None else self.next
        return {
            "send": send,
            "wake": wake,
            "cancel": cancel or [],
            "end": end,
            "tokens_milli": self.budget.tokens,
        }


class HedgeDelay:
    """The share of the latest calls by which the next attempt is sent, by the nearest rank."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.latest: list[int] = []

    def step(self, args: dict[str, Any]) -> dict[str, Any]:
        config = self.config
        self.latest = [*self.latest, args["latency_ms"]][-config["samples"] :]
        if len(self.latest) < config["samples_min"]:
            return {"delay_ms": None}
        rank = -(-len(self.latest) * config["permille"] // 1000)
        return {"delay_ms": max(config["delay_ms_min"], sorted(self.latest)[rank - 1])}


class DroppingLimiter(Limiter):
    """Gradient2, and what a window with a drop in it does."""

    def step(self, args: dict[str, Any]) -> dict[str, Any]:
        if not args["dropped"]:
            return super().step({"rtt_us": args["rtt_us"], "inflight": args["inflight"]})
        self.limit = max(float(self.config["min"]), self.limit * 0.9)
        return {"limit": int(self.limit)}


class CallLimiter:
    """Who may call, who waits, and the windows that the limit learns from."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.limiter = DroppingLimiter(config)
        self.inflight = self.waiting = self.most = 0
        self.begin: int | None = None
        self.rtts: list[int] = []
        self.drops = 0

    def step(self, args: dict[str, Any]) -> dict[str, Any]:
        op = args["op"]
        if op == "acquire":
            return self.state({"admit": self.acquire()})
        if op == "leave":
            self.waiting -= 1
            return self.state({})
        if op == "release":
            self.release(args["t"], args["rtt_us"], args["outcome"])
            return self.state({"admitted": self.admit_waiting()})
        raise ValueError(f"unknown op {op!r}")

    def state(self, more: dict[str, Any]) -> dict[str, Any]:
        return more | {
            "limit": int(self.limiter.limit),
            "inflight": self.inflight,
            "waiting": self.waiting,
        }

    def acquire(self) -> str:
        if not self.waiting and self.inflight < int(self.limiter.limit):
            self.enter()
            return "now"
        if self.waiting < self.config["waiting_max"]:
            self.waiting += 1
            return "wait"
        return "refuse"

    def enter(self) -> None:
        self.inflight += 1
        self.most = max(self.most, self.inflight)

    def admit_waiting(self) -> int:
        admitted = 0
        while self.waiting and self.inflight < int(self.limiter.limit):
            self.waiting -= 1
            self.enter()
            admitted += 1
        return admitted

    def release(self, now: int, rtt_us: int, outcome: str) -> None:
        self.inflight -= 1
        if outcome == "ignore":
            return
        if outcome not in ("ok", "drop"):
            raise ValueError(f"unknown outcome {outcome!r}")
        self.begin = now if self.begin is None else self.begin
        if outcome == "ok":
            self.rtts.append(max(1, rtt_us))
        else:
            self.drops += 1
        config = self.config
        if (
            now - self.begin < config["window_ms"]
            or len(self.rtts) + self.drops < config["window_calls"]
        ):
            return
        mean = sum(self.rtts) // len(self.rtts) if self.rtts else 0
        self.limiter.step({"rtt_us": mean, "inflight": self.most, "dropped": self.drops > 0})
        self.begin, self.rtts, self.drops, self.most = now, [], 0, self.inflight


KINDS: dict[str, Any] = {
    "status_class": StatusClass,
    "retry": Retry,
    "hedge": Hedge,
    "hedge_delay": HedgeDelay,
    "limiter_drop": DroppingLimiter,
    "call_limiter": CallLimiter,
}


def differences(vectors: list[dict[str, Any]]) -> tuple[int, int]:
    """Prints what this file computes otherwise; the number of steps and of differences."""
    steps = found = 0
    for vector in vectors:
        machine = KINDS[vector["kind"]](vector["config"])
        for number, step in enumerate(vector["steps"]):
            steps += 1
            got = machine.step(step["in"])
            if json.dumps(got, sort_keys=True) != json.dumps(step["out"], sort_keys=True):
                found += 1
                where = f"{vector['kind']} {vector['name']} step {number}"
                print(f"{where}: want {step['out']}, got {got}")
    print(f"{len(vectors)} vectors, {steps} steps, {found} differences")
    return steps, found


def check(path: str) -> int:
    """Compares a file; 1 where something differs."""
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    if document["schema"] != SCHEMA:
        raise ValueError(f"{path}: schema {document['schema']}, this file reads {SCHEMA}")
    return 1 if differences(document["vectors"])[1] else 0


def generate(path: str) -> int:
    """Writes the cases with one step a line; 1, and nothing written, where this file disagrees."""
    vectors = cases()
    if differences(vectors)[1]:
        return 1
    blocks = []
    for vector in vectors:
        steps = ",\n    ".join(json.dumps(step) for step in vector["steps"])
        head = f'{{"kind": "{vector["kind"]}", "name": "{vector["name"]}",'
        blocks.append(
            f'  {head}\n   "config": {json.dumps(vector["config"])},\n   "steps": [\n    {steps}]}}'
        )
    text = f'{{"schema": {SCHEMA}, "vectors": [\n' + ",\n".join(blocks) + "\n]}\n"
    json.loads(text)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return 0


def main(args: list[str]) -> int:
    if len(args) == 2 and args[0] in ("check", "gen"):
        return check(args[1]) if args[0] == "check" else generate(args[1])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
