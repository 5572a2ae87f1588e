"""The two keys by which schedulers agree on who leads: see domain/leadership.py."""

import msgspec

from plait_scheduler.broker.key_value import ABSENT, KeyValue
from plait_scheduler.domain.leadership import LEASE_MS, View

# Its version is the epoch. Never removed, since an epoch that has gone could not refuse any more.
LEADER_KEY = "scheduler/leader"
LEASE_KEY = "scheduler/leader-lease"


class Leader(msgspec.Struct, frozen=True):
    """The value of the leader key, as JSON."""

    # "": nobody leads.
    scheduler: str = ""
    # Where it is asked.
    address: str = ""
    # How long it may be silent.
    lease_ms: int = LEASE_MS
    # When it took the lead, by its own clock, for people: milliseconds since 1970.
    since_ms: int = 0


class LeaderKeys:
    """Reads and writes them. Errors are grpc.aio.AioRpcError."""

    def __init__(self, free: KeyValue, fenced: KeyValue) -> None:
        """`free` writes whoever leads, `fenced` only in the present epoch."""
        self._free = free
        self._fenced = fenced

    async def view(self, seconds: float) -> tuple[View, Leader]:
        """Both as they are at one instant."""
        found = await self._free.list(LEADER_KEY, seconds)
        leader, lease = found.get(LEADER_KEY), found.get(LEASE_KEY)
        said = msgspec.json.decode(leader.value, type=Leader) if leader else Leader()
        view = View(
            epoch=leader.version if leader else ABSENT,
            leader=said.scheduler,
            renewal=lease.version if lease else ABSENT,
            lease_ms=said.lease_ms,
        )
        return view, said

    async def take(self, leader: Leader, version: int, seconds: float) -> int:
        """Takes the lead from whoever took it at that version; returns the epoch. Raises
        VersionMismatchError where somebody was faster.
        """
        value = msgspec.json.encode(leader)
        return await self._free.put(LEADER_KEY, value, version, seconds=seconds)

    async def renew(self, seconds: float) -> None:
        """Says that the leader lives."""
        await self._fenced.put(LEASE_KEY, b"", seconds=seconds)

    async def give(self, epoch: int, seconds: float) -> None:
        """Gives the lead away. Raises VersionMismatchError where it is somebody else's."""
        value = msgspec.json.encode(Leader())
        await self._free.put(LEADER_KEY, value, epoch, seconds=seconds)
