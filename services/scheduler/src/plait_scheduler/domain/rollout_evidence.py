"""What attempts say of a version, compared with what they say of the others at the same time.

Both tests are one sided and ask for what chance gives once in some thirty thousand looks (four
standard deviations), because they are made again at every look for as long as a rollout lasts. And
both ask for it in the earlier half of the attempts as in the later one: those of one moment share
what slows or breaks them (a burst, a cold start), so many of them are no better than one.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from plait_scheduler.domain.call_load import Load, SideLoads
from plait_scheduler.domain.events import SideFigures, SplitFigures
from plait_scheduler.domain.rollout import Rollback, percent

# How far back attempts count.
WINDOW_MS = 300_000
BUCKET_MS = 1_000
# Standard deviations.
SIGMAS = 4.0
# The share of attempts whose time is compared.
QUANTILE = 0.9
# Differences below it are those of a busy machine, not of a version.
LATENCY_FLOOR_MS = 20
_OK, _CANCELLED = 0, 1
# Stands for a method where direct calls are counted, which clients report for all methods as one.
_CALLS = ""


@dataclass(slots=True)
class Sample:
    """Attempts of one side."""

    attempts: int = 0
    # All that did not end well, whoever was to blame: the others have the same callers. Those lost
    # with their worker count; those that were cancelled do not.
    failed: int = 0
    busy_ms: int = 0
    # As in SideFigures.
    spans: dict[int, int] = field(default_factory=dict)

    def take(self, side: SideFigures) -> None:
        """Counts figures."""
        counted = sum(side.outcomes) - _at(side.outcomes, _CANCELLED) + side.lost
        self.attempts += counted
        self.failed += counted - _at(side.outcomes, _OK)
        self.busy_ms += side.busy_ms
        for span, count in enumerate(side.spans):
            if count:
                self.spans[span] = self.spans.get(span, 0) + count

    def take_calls(self, load: Load) -> None:
        """Counts direct calls that clients reported. Nobody says how long they took."""
        self.attempts += load.ended
        self.failed += load.ended_badly

    def add(self, other: "Sample") -> None:
        """Counts both."""
        self.attempts += other.attempts
        self.failed += other.failed
        self.busy_ms += other.busy_ms
        for span, count in other.spans.items():
            self.spans[span] = self.spans.get(span, 0) + count

    @property
    def timed(self) -> int:
        """Attempts whose time is known."""
        return sum(self.spans.values())

    def quantile_ms(self, quantile: float) -> int:
        """The time that this share of attempts stays within, to the end of its span."""
        wanted, seen = quantile * self.timed, 0
        for span in sorted(self.spans):
            seen += self.spans[span]
            if seen >= wanted:
                return span_start(span + 1)
        return 0

    def slower_than(self, limit_ms: int) -> int:
        """Attempts that took at least so long."""
        return sum(count for span, count in self.spans.items() if span_start(span) >= limit_ms)


@dataclass(slots=True)
class Pair:
    """The version and the others."""

    own: Sample = field(default_factory=Sample)
    others: Sample = field(default_factory=Sample)
    # The version's attempts once more: the earlier ones, and the later ones.
    early: Sample = field(default_factory=Sample)
    late: Sample = field(default_factory=Sample)

    @property
    def halves(self) -> tuple[Sample, Sample]:
        """Without later ones all are of one moment."""
        return self.early, self.late


def span_start(span: int) -> int:
    """Where a span of figures begins, in milliseconds."""
    return span if span < 8 else (4 + span % 4) << (span // 4 - 1)


class Evidence:
    """The attempts of the last minutes, by method. Lost with the process: it is counted anew."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, dict[str, Pair]]] = deque()
        # Attempts of the version since its share was set, direct calls among them.
        self.attempts = 0
        # Workers of the version and of the others, at the last look.
        self.workers = (0, 0)

    def renew(self) -> None:
        """The version has another share. How often the others failed stays, for where the version
        has everything nothing else would say it; how long they took does not, since it hangs on how
        much they had to do.
        """
        self.attempts = 0
        for _, methods in self._buckets:
            for pair in methods.values():
                pair.own = Sample()
                pair.others.spans = {}

    def observe(
        self, now_ms: int, figures: Sequence[SplitFigures], calls: SideLoads | None = None
    ) -> None:
        """Takes in figures of the service's methods, and what clients reported of direct calls."""
        bucket_ms = now_ms - now_ms % BUCKET_MS
        if not self._buckets or self._buckets[-1][0] != bucket_ms:
            self._buckets.append((bucket_ms, {}))
        while self._buckets[0][0] <= now_ms - WINDOW_MS:
            self._buckets.popleft()
        methods = self._buckets[-1][1]
        own = others = 0
        for each in figures:
            pair = methods.setdefault(each.method, Pair())
            before = pair.own.attempts
            pair.own.take(each.own)
            pair.others.take(each.others)
            self.attempts += pair.own.attempts - before
            own, others = max(own, each.own.workers), max(others, each.others.workers)
        if figures:
            self.workers = (own, others)
        if calls is not None:
            pair = methods.setdefault(_CALLS, Pair())
            pair.own.take_calls(calls.own)
            pair.others.take_calls(calls.others)
            self.attempts += calls.own.ended

    def by_method(self) -> Mapping[str, Pair]:
        """The sums of the window, of tasks."""
        return self._sums(calls=False)

    def calls(self) -> Pair:
        """The sums of the window, of direct calls."""
        return self._sums(calls=True).get(_CALLS, Pair())

    def _sums(self, *, calls: bool) -> dict[str, Pair]:
        seen = [
            (method, pair)
            for _, methods in self._buckets
            for method, pair in methods.items()
            if (method == _CALLS) is calls
        ]
        sums: dict[str, Pair] = {}
        for method, pair in seen:
            total = sums.setdefault(method, Pair())
            total.own.add(pair.own)
            total.others.add(pair.others)
        for method, pair in seen:
            total = sums[method]
            first = 2 * total.early.attempts < total.own.attempts
            (total.early if first else total.late).add(pair.own)
        return sums

    def total(self) -> Pair:
        """The sum over all methods, of tasks."""
        total = Pair()
        for pair in self.by_method().values():
            total.own.add(pair.own)
            total.others.add(pair.others)
            total.early.add(pair.early)
            total.late.add(pair.late)
        return total


def verdict(evidence: Evidence, policy: Rollback) -> str:
    """Why the version is to go back; "": nothing is to be said against it.

    Methods are judged each for itself and all together: one that fails always may be rare, and
    several that fail a little add up. Times of different methods are no one distribution. Direct
    calls are judged apart from tasks: where only one side listens, calls that all end well would
    make the other side's tasks look bad.
    """
    if policy.off or evidence.attempts < policy.samples_min:
        return ""
    methods = sorted(evidence.by_method().items())
    for method, pair in methods:
        found = judge_errors(pair, policy) or judge_latency(pair, policy)
        if found:
            return f"{method.lstrip('/')}: {found}"
    if len(methods) > 1:
        found = judge_errors(evidence.total(), policy)
        if found:
            return f"all methods: {found}"
    found = judge_errors(evidence.calls(), policy)
    return f"direct calls: {found}" if found else ""


def judge_errors(pair: Pair, policy: Rollback) -> str:
    """Whether more attempts fail than chance and the margin explain."""
    own, others = pair.own, pair.others
    if min(own.attempts, others.attempts) < policy.samples_min:
        return ""
    margin = policy.error_margin / 10_000
    one, other = _rate(own.failed, own.attempts), _rate(others.failed, others.attempts)
    noise = math.sqrt(_variance(one, own.attempts) + _variance(other, others.attempts))
    lasting = all(half.failed > (other + margin) * half.attempts for half in pair.halves)
    if one - other - margin <= SIGMAS * noise or not lasting:
        return ""
    return (
        f"{own.failed} of {own.attempts} attempts failed, "
        f"of other versions {others.failed} of {others.attempts} "
        f"(margin {percent(policy.error_margin)})"
    )


def judge_latency(pair: Pair, policy: Rollback) -> str:
    """Whether more attempts take so many times longer than the others' 90 % than chance explains:
    if the version is not slower than that, a tenth of its attempts are.
    """
    own, others = pair.own, pair.others
    if not policy.latency_ratio or min(own.timed, others.timed) < policy.samples_min:
        return ""
    usual_ms = others.quantile_ms(QUANTILE)
    limit_ms = max(usual_ms * policy.latency_ratio // 1000, usual_ms + LATENCY_FLOOR_MS)
    slow, usual = _rate(own.slower_than(limit_ms), own.timed), 1 - QUANTILE
    noise = math.sqrt(_variance(slow, own.timed) + _variance(usual, others.timed))
    lasting = all(half.slower_than(limit_ms) > usual * half.timed for half in pair.halves)
    if slow - usual <= SIGMAS * noise or not lasting:
        return ""
    return (
        f"{own.slower_than(limit_ms)} of {own.timed} attempts took over {limit_ms} ms, "
        f"while 90 % of those of other versions take at most {usual_ms} ms"
    )


def _rate(count: int, of: int) -> float:
    """As if half an attempt more had failed and half a one had not: none of few says little."""
    return (count + 0.5) / (of + 1)


def _variance(rate: float, of: int) -> float:
    return rate * (1 - rate) / of


def _at(counts: tuple[int, ...], index: int) -> int:
    return counts[index] if index < len(counts) else 0
