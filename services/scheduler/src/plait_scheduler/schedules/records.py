"""What is kept of schedules in the key space: a value each, with what was declared and how it is
with it, so that a decision and its declaration cannot come apart.
"""

from dataclasses import dataclass

import msgspec

from plait_scheduler.broker.key_value import ABSENT, Entry, KeyValue
from plait_scheduler.domain.schedule import Schedule, State

RECORD_PREFIX = "scheduler/schedules/"


@dataclass(frozen=True, slots=True)
class Record:
    """A schedule, as JSON under `scheduler/schedules/<name>`."""

    schedule: Schedule
    state: State


@dataclass(frozen=True, slots=True)
class Versioned:
    """A record and its version in the key space."""

    record: Record
    version: int


class ScheduleRecords:
    """Reads and writes them. Errors are grpc.aio.AioRpcError; a write raises VersionMismatchError
    where another scheduler has written.
    """

    def __init__(self, key_value: KeyValue) -> None:
        self._key_value = key_value

    async def all(self) -> dict[str, Versioned]:
        """All of them, by name."""
        found = await self._key_value.all(RECORD_PREFIX)
        return {key.removeprefix(RECORD_PREFIX): _decoded(entry) for key, entry in found.items()}

    async def of(self, name: str) -> Versioned | None:
        """One; None where there is none."""
        entry = await self._key_value.get(RECORD_PREFIX + name)
        return _decoded(entry) if entry else None

    async def write(self, record: Record, before: Versioned | None) -> Versioned:
        """Writes a record in the place of the one before."""
        value = msgspec.json.encode(record)
        key = RECORD_PREFIX + record.schedule.name
        version = await self._key_value.put(key, value, before.version if before else ABSENT)
        return Versioned(record, version)

    async def remove(self, before: Versioned) -> None:
        """Removes the record."""
        await self._key_value.delete(RECORD_PREFIX + before.record.schedule.name, before.version)


def _decoded(entry: Entry) -> Versioned:
    return Versioned(msgspec.json.decode(entry.value, type=Record), entry.version)
