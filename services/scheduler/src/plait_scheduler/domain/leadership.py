"""Who leads: what one scheduler makes of the broker's two keys, and when.

The *leader key* is written by whoever takes the lead, by compare-and-swap; its version is the epoch
of that leader, under which the broker takes commands. The *lease key* is written by the leader
again and again, in its epoch; whoever sees it unchanged for longer than the lease takes the lead.

There is no clock but one's own. A leader counts its lease from before it sent what the broker took;
another one counts from after it saw that. No two are ever obeyed, whatever clocks do and however
late a message is: the broker refuses every epoch but the latest. The lease only decides how soon
another one leads, and for how long one may answer as the leader without asking.
"""

import enum
from dataclasses import dataclass

# How long a leader that is not heard of keeps the lead.
LEASE_MS = 2_500
LEASE_MS_MIN = 200
LEASE_MS_MAX = 60_000
# A lease is renewed so often while it lasts, and looked at so often by the others.
RENEWALS = 4
LOOKS = 10
# Clocks run at rates that differ by less than this.
SKEW_PERMILLE = 50


@dataclass(frozen=True, slots=True)
class View:
    """Both keys, read at one instant."""

    # Version of the leader key; 0: there is none.
    epoch: int = 0
    # The scheduler that wrote it; "": nobody leads.
    leader: str = ""
    # Version of the lease key; 0: there is none.
    renewal: int = 0
    # How long the leader's lease lasts, as it says.
    lease_ms: int = LEASE_MS


class Role(enum.Enum):
    """What a scheduler is."""

    # It has not found out yet whether somebody leads.
    LOOKING = "looking"
    # Another one leads and lives.
    STANDBY = "standby"
    LEADER = "leader"


class Candidate:
    """One scheduler. `now_ms` is its own monotonic clock."""

    def __init__(self, scheduler: str, lease_ms: int = LEASE_MS) -> None:
        """Raises ValueError for a lease out of bounds."""
        if not scheduler:
            raise ValueError("a candidate needs a name")
        if not LEASE_MS_MIN <= lease_ms <= LEASE_MS_MAX:
            raise ValueError(f"a lease lasts {LEASE_MS_MIN} to {LEASE_MS_MAX} ms, not {lease_ms}")
        self.scheduler = scheduler
        self.lease_ms = lease_ms
        self.role = Role.LOOKING
        # While it leads: the epoch of its commands.
        self.epoch = 0
        # What it saw last of another leader, and when it saw that first.
        self._seen: View | None = None
        self._since_ms = 0
        self._valid_until_ms = 0

    def saw(self, view: View, now_ms: int) -> int | None:
        """Takes in what the keys are while it does not lead. Returns the version from which the
        leader key is to be written, if it is to be.
        """
        if not view.leader or view.leader == self.scheduler:
            # What says that it leads itself was written by a call whose answer was lost.
            return view.epoch
        before, self._seen = self._seen, view
        if before != view:
            self._since_ms = now_ms
            if before is not None and before.epoch == view.epoch:
                self.role = Role.STANDBY
            return None
        return view.epoch if now_ms - self._since_ms > _patience_ms(view) else None

    def elected(self, epoch: int, asked_ms: int) -> None:
        """It has written the leader key, which it asked for at that time: it leads."""
        self.role, self.epoch = Role.LEADER, epoch
        self._valid_until_ms = asked_ms + self.lease_ms
        self._seen = None

    def outrun(self) -> None:
        """The leader key had another version: somebody was faster."""
        self._seen = None

    def renewed(self, asked_ms: int) -> None:
        """The broker took a renewal that was sent at that time."""
        self._valid_until_ms = max(self._valid_until_ms, asked_ms + self.lease_ms)

    def deposed(self, epoch: int) -> None:
        """The broker refused its epoch: another one leads in this one. 0: the broker has forgotten
        who leads, as one with another data directory has.
        """
        self.role = Role.STANDBY if epoch else Role.LOOKING
        self.epoch, self._seen = 0, None

    def leads(self, now_ms: int) -> bool:
        """Whether no other one can lead by now, as far as clocks can tell."""
        return self.role is Role.LEADER and now_ms < self._valid_until_ms


def _patience_ms(view: View) -> int:
    """How long a leader's silence is borne, on a clock that may be faster than the leader's."""
    lease_ms = min(max(view.lease_ms, LEASE_MS_MIN), LEASE_MS_MAX)
    return lease_ms * (1000 + SKEW_PERMILLE) // 1000
