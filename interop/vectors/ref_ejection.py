#!/usr/bin/env python3
"""Reference of outlier ejection: which of a cluster's hosts are left out, by gRPC's A50.

The expected values are written by hand in `ejection_cases.py` and not computed here: `gen` writes
them and fails where this file disagrees. Time and randomness are inputs. Needs Python 3.10 or newer
and no package.

    python3 ref_ejection.py check ejection.json    compare every step with what this file computes
    python3 ref_ejection.py gen ejection.json      write the file again from the cases
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import dataclass
from typing import Any

from ejection_cases import SCHEMA, cases


@dataclass
class Host:
    """One host: its calls since the last sweep, and its ejections."""

    good: int = 0
    bad: int = 0
    multiplier: int = 0
    ejected_ms: int | None = None

    @property
    def total(self) -> int:
        return self.good + self.bad


class Ejection:
    """The hosts of one cluster. There is no timer: what is due is done by the next step."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.hosts: dict[str, Host] = {}
        self.next_ms: int | None = None
        self.draws = itertools.cycle(config["draws"])

    def step(self, args: dict[str, Any]) -> dict[str, Any]:
        now = args["t"]
        self.catch_up(now)
        if args["op"] == "hosts":
            self.hosts = {name: self.hosts.get(name, Host()) for name in args["hosts"]}
        elif args["op"] == "report":
            # What is told of a host that is gone is nobody's.
            if host := self.hosts.get(args["host"]):
                host.good += args["good"]
                host.bad += args["bad"]
        elif args["op"] != "look":
            raise ValueError(f"unknown op {args['op']}")
        return {
            "ejected": [name for name, host in self.hosts.items() if host.ejected_ms is not None]
        }

    def catch_up(self, now: int) -> None:
        interval = self.config["interval_ms"]
        if self.next_ms is None:
            self.next_ms = now + interval
        while self.next_ms <= now:
            self.sweep(self.next_ms)
            self.next_ms += interval

    def sweep(self, now: int) -> None:
        if rule := self.config["success_rate"]:
            self.by_success_rate(rule, now)
        if rule := self.config["failure_percentage"]:
            self.by_failure_percentage(rule, now)
        base = self.config["base_ejection_ms"]
        longest = max(base, self.config["max_ejection_ms"])
        for host in self.hosts.values():
            host.good = host.bad = 0
            if host.ejected_ms is None:
                host.multiplier = max(0, host.multiplier - 1)
            elif now > host.ejected_ms + min(base * host.multiplier, longest):
                host.ejected_ms = None

    def judged(self, rule: dict[str, int]) -> list[Host]:
        found = [
            host
            for host in self.hosts.values()
            if host.ejected_ms is None and host.total >= max(1, rule["request_volume"])
        ]
        return found if len(found) >= rule["minimum_hosts"] else []

    def by_success_rate(self, rule: dict[str, int], now: int) -> None:
        found = self.judged(rule)
        if not found:
            return
        rates = [host.good / host.total for host in found]
        mean = sum(rates) / len(rates)
        deviation = math.sqrt(sum((rate - mean) ** 2 for rate in rates) / len(rates))
        least = mean - deviation * (rule["stdev_factor"] / 1000)
        for host, rate in zip(found, rates, strict=True):
            if not self.may_eject():
                return
            if rate < least:
                self.eject(host, rule["enforcement"], now)

    def by_failure_percentage(self, rule: dict[str, int], now: int) -> None:
        for host in self.judged(rule):
            if not self.may_eject():
                return
            if host.bad * 100 > rule["threshold"] * host.total:
                self.eject(host, rule["enforcement"], now)

    def may_eject(self) -> bool:
        out = sum(host.ejected_ms is not None for host in self.hosts.values())
        return bool(out * 100 < self.config["max_ejected_percent"] * len(self.hosts))

    def eject(self, host: Host, enforcement: int, now: int) -> None:
        if next(self.draws) < enforcement:
            host.ejected_ms = now
            host.multiplier += 1


def differences(vectors: list[dict[str, Any]]) -> int:
    """Prints what this file computes otherwise, and how often."""
    steps = found = 0
    for vector in vectors:
        machine = Ejection(vector["config"])
        for number, step in enumerate(vector["steps"]):
            steps += 1
            got = machine.step(step["in"])
            if got != step["out"]:
                found += 1
                where = f"{vector['name']} step {number}"
                print(f"{where}: want {step['out']}, got {got}")
    print(f"{len(vectors)} vectors, {steps} steps, {found} differences")
    return found


def check(path: str) -> int:
    """Compares a file; 1 where something differs."""
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    if document["schema"] != SCHEMA:
        raise ValueError(f"{path}: schema {document['schema']}, this file reads {SCHEMA}")
    return 1 if differences(document["vectors"]) else 0


def generate(path: str) -> int:
    """Writes the cases with one step a line; 1, and nothing written, where this file disagrees."""
    vectors = cases()
    if differences(vectors):
        return 1
    blocks = []
    for vector in vectors:
        steps = ",\n    ".join(json.dumps(step) for step in vector["steps"])
        head = f'{{"kind": "{vector["kind"]}", "name": "{vector["name"]}",'
        blocks.append(
            f'  {head}\n   "config": {json.dumps(vector["config"])},\n   "steps": [\n    {steps}]}}'
        )
    text = f'{{"schema": {SCHEMA}, "vectors": [\n' + ",\n".join(blocks) + "\n]}\n"
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
