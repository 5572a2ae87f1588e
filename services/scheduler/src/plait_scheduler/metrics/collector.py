"""Metrics of a scheduler, read from its loops when they are asked for.

No label has a value that users choose freely: methods come from contracts, the rest from fixed
lists. docs/metrics.md has all names.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from plait_scheduler.domain.breaker import MethodBreaker, State
from plait_scheduler.loops.loop import Loop
from plait_scheduler.schedules.records import Record

# As the broker tells the same.
STATES = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether this scheduler leads."""

    leads: bool
    # Whether the broker is observed, which only a leader does.
    connected: bool
    # Of its commands; 0: it has not led yet.
    epoch: int


@dataclass(frozen=True, slots=True)
class Breakers:
    """Those that there are, by name."""

    methods: Callable[[], Mapping[str, MethodBreaker]]
    workers: Callable[[], Mapping[str, MethodBreaker]]


@dataclass(frozen=True, slots=True)
class Sources:
    """What is read. Everything is asked on the event loop, so nothing changes meanwhile."""

    standing: Callable[[], Standing]
    loops: Sequence[Loop]
    breakers: Breakers
    # Schedules, where they are known.
    schedules: Callable[[], Iterable[Record]]


class SchedulerCollector(Collector):
    """Breakers and schedules are told by the scheduler that leads: others know them by hearsay."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterable[Metric]:
        """All families."""
        standing = self._sources.standing()
        yield _gauge("leads", "1 while this scheduler leads, else 0.", standing.leads)
        yield _gauge("connected", "1 while it observes the broker, else 0.", standing.connected)
        yield _gauge("epoch", "Epoch of its commands; 0: it has not led yet.", standing.epoch)
        yield from self._turns()
        yield from self._breakers(standing.leads)
        yield from self._schedules(standing.leads)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not collect to know the names, as there is no other one."""
        return ()

    def _turns(self) -> Iterable[Metric]:
        seconds = SummaryMetricFamily(
            "plait_scheduler_turn_seconds", "Time of turns of a loop.", labels=["loop"]
        )
        errors = CounterMetricFamily(
            "plait_scheduler_turn_errors",
            "Turns that a call to the broker ended.",
            labels=["loop"],
        )
        done = CounterMetricFamily(
            "plait_scheduler_decisions", "What turns did, by what it was.", labels=["loop", "what"]
        )
        for loop in self._sources.loops:
            tally = loop.tally
            seconds.add_metric([loop.name], tally.turns, tally.seconds)
            errors.add_metric([loop.name], tally.errors)
            for what, count in sorted(tally.done.items()):
                done.add_metric([loop.name, what], count)
        return seconds, errors, done

    def _breakers(self, leads: bool) -> Iterable[Metric]:
        state = GaugeMetricFamily(
            "plait_scheduler_breaker_state",
            "Breaker of a method as it was decided: 0 closed, 1 half open, 2 open.",
            labels=["method"],
        )
        openings = GaugeMetricFamily(
            "plait_scheduler_breaker_openings",
            "How often the breaker has opened since it was closed last.",
            labels=["method"],
        )
        breakers = self._sources.breakers
        for method, breaker in sorted(breakers.methods().items()) if leads else ():
            state.add_metric([method], STATES[breaker.state])
            openings.add_metric([method], breaker.openings)
        workers = GaugeMetricFamily(
            "plait_scheduler_worker_breakers", "Workers by their breakers.", labels=["state"]
        )
        counts = Counter(each.state for each in breakers.workers().values())
        for each in STATES if leads else ():
            workers.add_metric([each.name.lower()], counts[each])
        return state, openings, workers

    def _schedules(self, leads: bool) -> Iterable[Metric]:
        states = Counter({"active": 0, "paused": 0})
        runs = Counter({"submitted": 0, "skipped": 0, "missed": 0, "refused": 0})
        for record in self._sources.schedules() if leads else ():
            state = record.state
            states["paused" if state.paused else "active"] += 1
            runs["submitted"] += state.run_count
            runs["skipped"] += state.skipped
            runs["missed"] += state.missed
            runs["refused"] += state.refused
        schedules = GaugeMetricFamily("plait_schedules", "Schedules.", labels=["state"])
        of_all = GaugeMetricFamily(
            "plait_schedule_runs",
            "Runs of all schedules that there are, since each was created.",
            labels=["outcome"],
        )
        for family, counts in ((schedules, states), (of_all, runs)) if leads else ():
            for name, count in counts.items():
                family.add_metric([name], count)
        return schedules, of_all


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"plait_scheduler_{name}", what, value=value)
