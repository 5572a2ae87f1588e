"""Leadership: takes the lead when nobody has it, keeps it, and stands by while another has it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from plait_scheduler.broker.epoch import Epoch, deposed_by
from plait_scheduler.broker.key_value import VersionMismatchError
from plait_scheduler.broker.leader_keys import Leader, LeaderKeys
from plait_scheduler.domain.leadership import LEASE_MS, LOOKS, RENEWALS, Candidate, Role


@dataclass(frozen=True, slots=True)
class LeadershipConfig:
    """What it needs to know."""

    # Names this process.
    scheduler: str
    # How long this one keeps the lead without being heard of.
    lease_ms: int = LEASE_MS


@dataclass(frozen=True, slots=True)
class Reign:
    """Who is told."""

    # This one leads: runs until it is cancelled, which is when another one does.
    term: Callable[[], Awaitable[Any]]
    # Another one leads and lives. Told at every look.
    standing_by: Callable[[Leader], Awaitable[None]]


class Leadership:
    """Never ends by itself. What it decides by is in domain/leadership.py."""

    def __init__(
        self,
        config: LeadershipConfig,
        keys: LeaderKeys,
        epoch: Epoch,
        reign: Reign,
        clocks: tuple[Callable[[], int], Callable[[], int]],
    ) -> None:
        """`clocks` are milliseconds since 1970, which people are shown, and on a clock that never
        goes back.
        """
        self._candidate = Candidate(config.scheduler, config.lease_ms)
        self._keys = keys
        self._epoch = epoch
        self._reign = reign
        self._now_ms, self._monotonic_ms = clocks
        # A call that takes longer is of no use.
        self._seconds = config.lease_ms / 1000
        self._log = structlog.get_logger("leadership")
        self._complained = False
        # Who leads, as far as is known: another one, or this one.
        self.leader = Leader()

    def leads(self) -> bool:
        """Whether this one leads, as far as its clock can tell."""
        return self._candidate.leads(self._monotonic_ms())

    async def run(self, address: str) -> None:
        """Runs until it is cancelled. `address` is where this one is asked while it leads."""
        while True:
            await self._campaign(address)
            self._log.info("leading", epoch=self._candidate.epoch)
            self._epoch.number = self._candidate.epoch
            async with asyncio.TaskGroup() as group:
                term = group.create_task(self._term())
                await self._renew()
                term.cancel()

    async def resign(self) -> None:
        """Gives the lead away, if this one has it: another one takes it at once. To be called after
        `run` was cancelled. Raises AioRpcError.
        """
        if self._candidate.role is not Role.LEADER:
            return
        try:
            await self._keys.give(self._candidate.epoch, self._seconds)
        except VersionMismatchError:
            self._log.info("replaced", epoch=self._candidate.epoch)

    async def _term(self) -> None:
        await self._reign.term()

    async def _campaign(self, address: str) -> None:
        """Returns when this one leads."""
        while self._candidate.role is not Role.LEADER:
            try:
                if await self._look(address):
                    continue
                self._complained = False
            except grpc.aio.AioRpcError as error:
                self._complain(error)
            await asyncio.sleep(self._seconds / LOOKS)

    async def _look(self, address: str) -> bool:
        """Looks who leads; True where this one tried to."""
        view, self.leader = await self._keys.view(self._seconds)
        version = self._candidate.saw(view, self._monotonic_ms())
        if version is None:
            if self._candidate.role is Role.STANDBY:
                await self._reign.standing_by(self.leader)
            return False
        asked_ms = self._monotonic_ms()
        taken = Leader(self._candidate.scheduler, address, self._candidate.lease_ms, self._now_ms())
        try:
            epoch = await self._keys.take(taken, version, self._seconds)
        except VersionMismatchError:
            self._candidate.outrun()
            return False
        self._candidate.elected(epoch, asked_ms)
        self.leader = taken
        return True

    async def _renew(self) -> None:
        """Returns when another one leads."""
        while True:
            asked_ms = self._monotonic_ms()
            try:
                await self._keys.renew(self._seconds)
            except grpc.aio.AioRpcError as error:
                epoch = deposed_by(error)
                if epoch is not None:
                    self._log.warning("deposed", epoch=self._candidate.epoch, by=epoch)
                    self._candidate.deposed(epoch)
                    return
                self._complain(error)
            else:
                self._candidate.renewed(asked_ms)
                self._complained = False
            await asyncio.sleep(self._seconds / RENEWALS)

    def _complain(self, error: grpc.aio.AioRpcError) -> None:
        """Once an outage, not once an attempt."""
        level = self._log.debug if self._complained else self._log.warning
        self._complained = True
        level("unreachable", code=error.code().name, error=error.details())
