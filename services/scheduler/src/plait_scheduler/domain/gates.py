"""Gates: what the broker is told of the methods and workers whose breakers are not closed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from plait_scheduler.domain.breaker import HALF_OPEN_MAX_MS, MethodBreaker, Outcomes, State
from plait_scheduler.domain.events import MethodFigures
from plait_scheduler.domain.policy import Breaker

# A gate outlives what it was set for by this, so that a scheduler that is late or replaced does not
# let everything through, and one that is gone for good parks nothing for long.
SLACK_MS = 5_000
# A method of which nothing succeeds for so long, and as much fails as its policy asks for, is ill
# whatever its window says: that may hold thousands of successes of before. Shorter outages are for
# retries.
RUN_MS = 200


@dataclass(frozen=True, slots=True)
class Gate:
    """How many attempts of a method may begin, or at a worker."""

    # The method's full path, or the worker's id.
    name: str
    # None: any number.
    permits: int | None
    # How long it holds.
    valid_ms: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A breaker came into another state."""

    # As of its gate.
    name: str
    state: State
    # How long it stays open.
    open_ms: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What figures say of a gate."""

    # Attempts that it lets begin; None: there is none.
    permits: int | None
    # Attempts that ended since it was set, and said nothing.
    ignored: int


class Gatekeeper:
    """Breakers by name, and the gates that they want. Lost with the process, but for what the gates
    of the one before tell; the broker's gates end by themselves.
    """

    def __init__(self) -> None:
        self._breakers: dict[str, MethodBreaker] = {}
        self._told: dict[str, State] = {}

    def reset(self) -> None:
        """The broker may have forgotten every gate."""
        self._told = {}

    def clear(self) -> None:
        """Begins anew."""
        self._told = {}
        self._breakers.clear()

    def breakers(self) -> Mapping[str, MethodBreaker]:
        """By name."""
        return self._breakers

    def told(self, gates: Iterable[Gate]) -> None:
        """They are set."""
        for gate in gates:
            breaker = self._breakers.get(gate.name)
            if breaker is None or breaker.state is State.CLOSED:
                self._told.pop(gate.name, None)
            else:
                self._told[gate.name] = breaker.state

    def _changes(self, now_ms: int, before: Mapping[str, State]) -> list[Change]:
        return [
            Change(name, breaker.state, breaker.left_open_ms(now_ms))
            for name, breaker in sorted(self._breakers.items())
            if breaker.state is not before.get(name, State.CLOSED)
        ]

    def _wanted(self, now_ms: int, figures: Mapping[str, Seen]) -> list[Gate]:
        """The gates to set now: those that changed, those that would end too soon, and those of
        which a probe said nothing.
        """
        found = []
        for name in sorted({*self._told, *self._breakers}):
            breaker = self._breakers.get(name)
            state = breaker.state if breaker else State.CLOSED
            changed = self._told.get(name, State.CLOSED) is not state
            seen = figures.get(name)
            if breaker is None or state is State.CLOSED:
                if changed:
                    found.append(Gate(name, None))
            elif state is State.OPEN:
                # Also while nothing changed: it may have been half open between two figures.
                if changed or seen is None or seen.permits != 0:
                    found.append(Gate(name, 0, breaker.left_open_ms(now_ms) + SLACK_MS))
            else:
                found += self._half_open(name, breaker, seen, changed=changed)
        return found

    @staticmethod
    def _half_open(
        name: str, breaker: MethodBreaker, seen: Seen | None, *, changed: bool
    ) -> list[Gate]:
        probes, valid_ms = breaker.config.half_open_probes, HALF_OPEN_MAX_MS + SLACK_MS
        if changed or (breaker.is_idle and (seen is None or seen.permits is None)):
            return [Gate(name, probes, valid_ms)]
        if seen is not None and seen.ignored:
            return [Gate(name, min(probes, (seen.permits or 0) + seen.ignored), valid_ms)]
        return []


# How many attempts ended well and ill, that are not counted.
Excluded = Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Run:
    """Failures without a success in between."""

    # When figures told of the first.
    since_ms: int
    # How many.
    failures: int


class Gates(Gatekeeper):
    """The breakers of all methods."""

    def __init__(self) -> None:
        super().__init__()
        self._runs: dict[str, Run] = {}

    def clear(self) -> None:
        """Begins anew."""
        super().clear()
        self._runs.clear()

    def observe(
        self,
        now_ms: int,
        methods: Iterable[MethodFigures],
        policies: Mapping[str, Breaker | None],
        excluded: Excluded = MappingProxyType({}),
    ) -> list[Change]:
        """Takes in figures. `policies` are those of the methods; None: it has no breaker.
        `excluded` ended at workers that are ill themselves.
        """
        figures = {each.method: each for each in methods}
        before = {method: each.state for method, each in self._breakers.items()}
        for method in {*figures, *self._breakers}:
            config = policies.get(method, self._config(method))
            if config is None:
                self._breakers.pop(method, None)
                continue
            breaker = self._breakers.get(method)
            seen = figures.get(method)
            if breaker is None or breaker.config != config:
                gated = breaker is None and seen is not None and seen.permits is not None
                breaker = self._breakers[method] = MethodBreaker(config, now_ms)
                if gated:
                    breaker.take_over(now_ms)
            outcomes = Outcomes.of(seen.fresh_outcomes) if seen else Outcomes()
            if breaker.state is State.CLOSED:
                outcomes = outcomes.without(*excluded.get(method, (0, 0)))
            breaker.observe(now_ms, outcomes, seen.permits if seen else None)
            if self._nothing_succeeds(now_ms, method, breaker, outcomes):
                breaker.open(now_ms)
        return self._changes(now_ms, before)

    def wanted(self, now_ms: int, methods: Iterable[MethodFigures]) -> list[Gate]:
        """The gates to set now."""
        seen = {
            each.method: Seen(each.permits, Outcomes.of(each.fresh_outcomes).ignored)
            for each in methods
        }
        return self._wanted(now_ms, seen)

    def _nothing_succeeds(
        self, now_ms: int, method: str, breaker: MethodBreaker, outcomes: Outcomes
    ) -> bool:
        if breaker.state is not State.CLOSED or outcomes.good:
            self._runs.pop(method, None)
            return False
        before = self._runs.get(method)
        if not outcomes.bad:
            return False
        failures = outcomes.bad + (before.failures if before else 0)
        run = self._runs[method] = Run(before.since_ms if before else now_ms, failures)
        return run.failures >= breaker.config.min_calls and now_ms - run.since_ms >= RUN_MS

    def _config(self, method: str) -> Breaker | None:
        breaker = self._breakers.get(method)
        return breaker.config if breaker else None
