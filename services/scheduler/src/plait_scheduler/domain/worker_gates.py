"""Gates of workers: one whose attempts fail while its peers' do not gets none but probes.

What fails at all workers alike is not theirs: that is for the breaker of the method. So a worker is
measured by its excess: how many of its attempts fail beyond what its peers' rates on the same
methods lead to. Nobody without peers is closed off, and of a group of peers at most half, since
what half of them do says no more than what the other half does.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from plait_scheduler.domain.breaker import MethodBreaker, Outcomes, State
from plait_scheduler.domain.events import WorkerFigures
from plait_scheduler.domain.gates import Change, Gate, Gatekeeper, Seen
from plait_scheduler.domain.policy import Breaker

# Outcomes before a worker is judged, and of its peers on a method before it is compared with them.
# Fewer than a method's breaker asks for, so that a worker's failures are not taken for the
# method's.
OUTCOMES_MIN = 10
PEER_OUTCOMES_MIN = 5
# Failures beyond what is usual, as a share of outcomes, from which a worker is ill. A method that
# fails half of the time anywhere shows it by chance in one of a thousand looks.
EXCESS = 0.5
# After so long what was counted weighs half.
HALF_LIFE_MS = 10_000
# Below this it is forgotten.
WEIGHT_MIN = 0.01
# How a worker that is closed off comes back, as a method does whose policy says nothing.
COMING_BACK = Breaker(
    min_calls=OUTCOMES_MIN,
    failure_permille=500,
    window_ms=HALF_LIFE_MS,
    open_ms=5_000,
    open_max_ms=60_000,
    half_open_probes=3,
)


@dataclass(frozen=True, slots=True)
class Weight:
    """How attempts ended, the older the less."""

    well: float = 0.0
    ill: float = 0.0

    @property
    def all(self) -> float:
        """Both."""
        return self.well + self.ill

    def plus(self, other: "Weight") -> "Weight":
        """The sum."""
        return Weight(self.well + other.well, self.ill + other.ill)

    def minus(self, other: "Weight") -> "Weight":
        """The difference, which rounding may not bring below nothing."""
        return Weight(max(0.0, self.well - other.well), max(0.0, self.ill - other.ill))

    def times(self, share: float) -> "Weight":
        """A share of it."""
        return Weight(self.well * share, self.ill * share)


# By method.
Record = Mapping[str, Weight]


def excess(own: Record, peers: Record) -> tuple[float, float]:
    """How many outcomes of a worker can be compared with its peers', and which share of them failed
    beyond what is usual: negative where it is better.
    """
    compared = beyond = 0.0
    for method, mine in own.items():
        theirs = peers.get(method, Weight())
        if theirs.all >= PEER_OUTCOMES_MIN:
            compared += mine.all
            beyond += mine.ill - mine.all * theirs.ill / theirs.all
    return compared, beyond / compared if compared else 0.0


class WorkerGates(Gatekeeper):
    """The breakers of all workers."""

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[str, dict[str, Weight]] = {}
        self._at_ms = 0
        # Those that the last figures closed off.
        self._opened: list[str] = []
        # Probes that failed as their peers' attempts did, by worker.
        self._unfair: dict[str, int] = {}

    def clear(self) -> None:
        """Begins anew."""
        super().clear()
        self._records.clear()

    def observe(
        self,
        now_ms: int,
        workers: Iterable[WorkerFigures],
        group_of: Callable[[str], str],
        *,
        early: bool = False,
    ) -> list[Change]:
        """Takes in figures. `group_of` names those that can take one another's work. Who is not in
        figures that are not early is gone.
        """
        figures = {each.worker: each for each in workers}
        if not early:
            for gone in self._breakers.keys() - figures.keys():
                del self._breakers[gone]
                self._records.pop(gone, None)
        before = {worker: each.state for worker, each in self._breakers.items()}
        self._opened, self._unfair = [], {}
        self._fade(now_ms)
        for worker, seen in figures.items():
            self._add(now_ms, worker, seen)
        groups: dict[str, list[str]] = {}
        for worker in sorted(self._breakers):
            groups.setdefault(group_of(worker), []).append(worker)
        for members in groups.values():
            self._judge(now_ms, members, figures)
        return self._changes(now_ms, before)

    def excluded(self, workers: Iterable[WorkerFigures]) -> dict[str, tuple[int, int]]:
        """What ended, by method, at workers that these figures closed off: well and ill. What ends
        there from now on, the broker does not count.
        """
        found: dict[str, tuple[int, int]] = {}
        for figures in workers:
            if figures.worker in self._opened:
                for method, (well, ill) in figures.said.items():
                    before = found.get(method, (0, 0))
                    found[method] = (before[0] + well, before[1] + ill)
        return found

    def wanted(self, now_ms: int, workers: Iterable[WorkerFigures]) -> list[Gate]:
        """The gates to set now."""
        seen = {
            each.worker: Seen(each.permits, each.said_nothing + self._unfair.get(each.worker, 0))
            for each in workers
        }
        return self._wanted(now_ms, seen)

    def _fade(self, now_ms: int) -> None:
        share = 0.5 ** (max(0, now_ms - self._at_ms) / HALF_LIFE_MS)
        self._at_ms = now_ms
        for worker, record in self._records.items():
            faded = {method: weight.times(share) for method, weight in record.items()}
            self._records[worker] = {
                method: weight for method, weight in faded.items() if weight.all >= WEIGHT_MIN
            }

    def _add(self, now_ms: int, worker: str, seen: WorkerFigures) -> None:
        breaker = self._breakers.get(worker)
        if breaker is None:
            breaker = self._breakers[worker] = MethodBreaker(COMING_BACK, now_ms)
            if seen.permits is not None:
                breaker.take_over(now_ms)
        if breaker.state is State.CLOSED:
            record = self._records.setdefault(worker, {})
            for method, (well, ill) in seen.said.items():
                record[method] = record.get(method, Weight()).plus(Weight(well, ill))

    def _judge(self, now_ms: int, members: list[str], figures: Mapping[str, WorkerFigures]) -> None:
        """Decides on the workers of one group."""
        usual = self._sum(members)
        for worker in members:
            seen = figures.get(worker)
            if self._breakers[worker].state is not State.CLOSED:
                self._probe(now_ms, worker, seen, usual)
        closed_off = [each for each in members if self._breakers[each].state is not State.CLOSED]
        room = len(members) // 2 - len(closed_off)
        # Who is left of a group that shrinks must do the work.
        closed_off.sort(key=lambda each: self._breakers[each].openings)
        for worker in closed_off[: max(0, -room)]:
            self._breakers[worker] = MethodBreaker(COMING_BACK, now_ms)
        for worker in self._ill(members, usual)[: max(0, room)]:
            self._breakers[worker].open(now_ms)
            self._records.pop(worker, None)
            self._opened.append(worker)

    def _probe(self, now_ms: int, worker: str, seen: WorkerFigures | None, usual: Record) -> None:
        """What a worker's probes say. Where a method fails at its peers as well, nothing."""
        good = bad = 0
        for method, (well, ill) in seen.said.items() if seen else ():
            theirs = usual.get(method, Weight())
            good += well
            if theirs.ill and theirs.ill >= EXCESS * theirs.all:
                self._unfair[worker] = self._unfair.get(worker, 0) + ill
            else:
                bad += ill
        permits = seen.permits if seen else None
        self._breakers[worker].observe(now_ms, Outcomes(good, bad), permits)

    def _ill(self, members: list[str], usual: Record) -> list[str]:
        """Those that are to be closed off, the worst first."""
        found = []
        for worker in members:
            own = self._records.get(worker, {})
            peers = {method: usual[method].minus(weight) for method, weight in own.items()}
            compared, beyond = excess(own, peers)
            if compared >= OUTCOMES_MIN and beyond >= EXCESS:
                found.append((-beyond, worker))
        return [worker for _, worker in sorted(found)]

    def _sum(self, members: list[str]) -> dict[str, Weight]:
        total: dict[str, Weight] = {}
        for worker in members:
            for method, weight in self._records.get(worker, {}).items():
                total[method] = total.get(method, Weight()).plus(weight)
        return total
