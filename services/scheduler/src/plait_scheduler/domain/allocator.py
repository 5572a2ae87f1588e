"""The allocator: how many unfinished attempts each worker may hold.

A window is the worker's slots, so that every slot has work, plus what the slots will finish within
a short horizon, so that none waits for a round trip. Tasks that wait in a worker cannot go to
another one, so slow handlers get nothing beyond their slots. A worker that slows down against its
own norm and its peers, fails more than its peers, or holds work and ends none, gets less. One that
is alone gets less on trial: if that does not make it quicker, its work has become slower, and it
gets all its slots back.

What is measured does not depend on the window: the time that a slot takes for an attempt, not the
time that an attempt spends in the worker. So a window does not move itself, and none oscillates.
"""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from plait_scheduler.domain.events import WorkerFigures


@dataclass(frozen=True, slots=True)
class AllocatorConfig:
    """What the allocator goes by. Shares are of 1, times in milliseconds."""

    # Work ahead that a worker may hold: covers a round trip to the broker, and is the longest that
    # a task waits in a worker because of it.
    horizon_ms: float = 50.0
    # The measured time of a slot moves the window only when it is off by this share.
    deadband: float = 0.25
    # How far a worker may be over its norm. Waiting in a worker doubles a time at most, so this is
    # out of reach of bursts (Gradient2 has 1.5, and measures no waiting).
    tolerance: float = 2.0
    # Below this it gets back what was taken; the gap between the two is what prevents a cycle.
    recovered: float = 1.5
    # Turns in a row that it must be well first; four times as many after each relapse.
    patience_turns: int = 4
    # What it gets back in each turn.
    recovery: float = 1.1
    # Times under this are not slow, whatever the norm is.
    slow_ms_min: float = 5.0
    # The least share of its slots that a slow worker keeps where peers can take its work.
    share_min: float = 0.1
    # What one that is alone gets on trial, for so many turns with outcomes, after as many turns in
    # which its slowness could pass; the trial is of use if it takes at most this share of the time.
    share_on_trial: float = 0.5
    trial_turns: int = 6
    trial_gain: float = 0.75
    # Weight of one ended attempt in the running means, and of one turn at most.
    sample_weight: float = 0.02
    turn_weight_max: float = 0.25
    # Weight of one turn in the running mean of what a worker holds.
    held_weight: float = 0.3
    # Turns that the norm looks back on; Gradient2's long window.
    norm_turns: int = 600
    # Turns with outcomes before there is a norm; Gradient2's warm-up.
    warm_up_turns: int = 10
    # Outcomes before the first decision.
    samples_min: int = 5
    # Failures more than the peers have, as a share of outcomes, from which a worker gets less.
    excess_failures: float = 0.5
    # Holding work for so long without an outcome is a stall, as is this multiple of the norm.
    stall_ms_min: float = 2000.0
    stall_norms: float = 8.0

    def validate(self) -> None:
        """Raises ValueError."""
        if self.horizon_ms <= 0:
            raise ValueError("the allocator's horizon is not positive")
        if not 1 <= self.recovered < self.tolerance:
            raise ValueError("a worker must have recovered before it is slow again")
        if not 0 < self.share_min <= self.share_on_trial < 1:
            raise ValueError("the least shares are not within 0 to 1, in order")


@dataclass(frozen=True, slots=True)
class WorkerTrack:
    """What is remembered of a worker from turn to turn."""

    # Running mean of the time that a slot takes for an attempt.
    slot_ms: float = 0.0
    # The same as of the last time it moved the window.
    settled_ms: float = 0.0
    # Its norm.
    norm_ms: float = 0.0
    # Running mean of failures as a share of outcomes.
    failures: float = 0.0
    # Running mean of the unfinished attempts that it holds.
    held: float = 0.0
    # Outcomes seen, and turns with outcomes.
    samples: int = 0
    turns: int = 0
    # For how long it has held work without an outcome.
    stalled_ms: float = 0.0
    # The share of its slots that it is given.
    share: float = 1.0
    # Turns in a row in which it was well.
    well_turns: int = 0
    # How often it was slow again before it had been well for long.
    relapses: int = 0
    # Of one that is alone: the turn in which it became slow, 0 for none, and its time before the
    # trial.
    slow_from: int = 0
    untried_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """One worker in one turn."""

    figures: WorkerFigures
    # Workers of one group can take one another's work: they serve the same methods.
    group: str = ""


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a turn comes to."""

    # To be remembered, by worker. Workers that are gone are not in it.
    tracks: Mapping[str, WorkerTrack] = field(default_factory=dict)
    # Windows to set, by worker; only those that change.
    windows: Mapping[str, int] = field(default_factory=dict)


def allocate(
    config: AllocatorConfig,
    tracks: Mapping[str, WorkerTrack],
    loads: Iterable[WorkerLoad],
    interval_ms: int,
) -> Allocation:
    """One turn: from the figures of an interval to the windows that follow."""
    all_loads = list(loads)
    measured = {
        load.figures.worker: _measure(
            config, tracks.get(load.figures.worker, WorkerTrack()), load.figures, interval_ms
        )
        for load in all_loads
    }
    decided: dict[str, WorkerTrack] = {}
    windows: dict[str, int] = {}
    usual = _usual(config, all_loads, measured)
    for load in all_loads:
        figures = load.figures
        track = measured[figures.worker]
        track = _judge(config, track, usual.get(load.group))
        decided[figures.worker] = track
        window = _window(config, track, figures)
        if window != figures.window:
            windows[figures.worker] = window
    return Allocation(decided, windows)


@dataclass(frozen=True, slots=True)
class _Usual:
    """What is usual among workers that can take one another's work. At most half are over it."""

    slowness: float
    failures: float


def _usual(
    config: AllocatorConfig, loads: Iterable[WorkerLoad], tracks: Mapping[str, WorkerTrack]
) -> dict[str, _Usual]:
    """By group; a group of one has nothing that is usual."""
    groups: dict[str, list[WorkerTrack]] = {}
    for load in loads:
        track = tracks[load.figures.worker]
        if track.turns >= config.warm_up_turns:
            groups.setdefault(load.group, []).append(track)
    return {
        group: _Usual(
            statistics.median_low(_slowness(config, track) for track in members),
            statistics.median_low(track.failures for track in members),
        )
        for group, members in groups.items()
        if len(members) > 1
    }


def _measure(
    config: AllocatorConfig, track: WorkerTrack, figures: WorkerFigures, interval_ms: int
) -> WorkerTrack:
    """Takes in one interval."""
    held = track.held + config.held_weight * (figures.in_flight - track.held)
    if figures.ended == 0:
        stalled = track.stalled_ms + interval_ms if figures.in_flight else 0.0
        return replace(track, held=held, stalled_ms=stalled)
    # Of what it holds, that beyond the slots waits: a slot takes so much less than an attempt.
    crowd = max(figures.slots, held, figures.in_flight)
    slot_ms = figures.busy_ms / figures.ended * figures.slots / crowd
    failures = figures.failed / figures.ended
    # The first outcomes and the first turns count alike, later ones by their number.
    weight = min(1 - (1 - config.sample_weight) ** figures.ended, config.turn_weight_max)
    weight = max(
        weight, min(1 / (track.turns + 1), figures.ended / (track.samples + figures.ended))
    )
    mean = track.slot_ms + weight * (slot_ms - track.slot_ms)
    settled = track.settled_ms
    samples = track.samples + figures.ended
    off = abs(mean - settled) > config.deadband * settled
    if samples >= config.samples_min and (off or track.turns == config.warm_up_turns):
        settled = mean
    return replace(
        track,
        held=held,
        slot_ms=mean,
        settled_ms=settled,
        norm_ms=_norm(config, track, slot_ms, mean),
        failures=track.failures + weight * (failures - track.failures),
        samples=samples,
        turns=track.turns + 1,
        stalled_ms=0.0,
    )


def _norm(config: AllocatorConfig, track: WorkerTrack, slot_ms: float, mean: float) -> float:
    """The norm follows slowly, but quickly where the worker has become much faster."""
    if track.turns < config.warm_up_turns:
        return track.norm_ms + (slot_ms - track.norm_ms) / (track.turns + 1)
    norm = track.norm_ms + (slot_ms - track.norm_ms) / config.norm_turns
    return norm * 0.95 if norm > 2 * mean else norm


def _judge(config: AllocatorConfig, track: WorkerTrack, usual: _Usual | None) -> WorkerTrack:
    """Decides on the share of its slots that a worker is given. All slow alike is nobody's fault,
    and neither are the failures of all: that is for the breaker of the method."""
    if track.turns < config.warm_up_turns:
        return track
    slowness = _slowness(config, track) / max(1.0, usual.slowness if usual else 1.0)
    excess = max(0.0, track.failures - (usual.failures if usual else 1.0))
    if slowness > config.tolerance or excess > config.excess_failures:
        relapsed = 0 < track.well_turns < config.norm_turns
        track = replace(track, well_turns=0, relapses=track.relapses + relapsed)
        if usual is None:
            return _try(config, track)
        wanted = min(config.tolerance / max(slowness, config.tolerance), 1 - excess)
        return replace(track, share=max(config.share_min, min(track.share, wanted)))
    if slowness < config.recovered and excess < config.excess_failures / 2:
        return _recover(config, track)
    return track


def _try(config: AllocatorConfig, track: WorkerTrack) -> WorkerTrack:
    """Of a slow worker that is alone: finds out whether less at once makes it quicker."""
    if track.slow_from == 0:
        return replace(track, slow_from=track.turns)
    slow_for = track.turns - track.slow_from
    if slow_for < config.trial_turns:
        return track
    if track.share == 1:
        # From here on the trial; its turns begin anew.
        begun = track.turns - config.trial_turns
        return replace(
            track, share=config.share_on_trial, untried_ms=track.slot_ms, slow_from=begun
        )
    if slow_for < 2 * config.trial_turns or track.slot_ms <= config.trial_gain * track.untried_ms:
        return track
    return replace(track, share=1.0, norm_ms=track.slot_ms, slow_from=0)


def _recover(config: AllocatorConfig, track: WorkerTrack) -> WorkerTrack:
    """Gives something back. After each relapse a worker must be well for longer before."""
    well = track.well_turns + 1
    patience = min(config.patience_turns * 4 ** (track.relapses - 1), config.norm_turns)
    if well >= config.norm_turns and track.share == 1:
        return replace(track, well_turns=well, relapses=0)
    if well <= patience:
        return replace(track, well_turns=well)
    share = min(1.0, track.share * config.recovery)
    return replace(track, share=share, well_turns=well, slow_from=0)


def _slowness(config: AllocatorConfig, track: WorkerTrack) -> float:
    """How many times its norm the worker takes."""
    return track.slot_ms / max(track.norm_ms, config.slow_ms_min)


def _window(config: AllocatorConfig, track: WorkerTrack, figures: WorkerFigures) -> int:
    """The window that follows, 1 to twice the slots."""
    slots = max(1, figures.slots)
    if track.samples < config.samples_min:
        # Nothing is known: what the broker gave stays.
        return max(1, min(figures.window, 2 * slots))
    if track.turns >= config.warm_up_turns:
        patience = max(config.stall_ms_min, config.stall_norms * track.norm_ms)
        if track.stalled_ms > patience:
            return _stalled_window(track.stalled_ms / patience, figures, slots)
    if track.share < 1:
        return max(1, int(slots * track.share))
    ahead = slots * config.horizon_ms / max(track.settled_ms, 0.001)
    return slots + min(slots, int(ahead))


def _stalled_window(patiences: float, figures: WorkerFigures, slots: int) -> int:
    """Less and less of a full worker, which costs nothing while it is full; of another one, what
    it holds and one more, since the others of its tasks may still be well."""
    if figures.in_flight < slots:
        return figures.in_flight + 1
    return max(1, int(slots / (1 + patiences)))
