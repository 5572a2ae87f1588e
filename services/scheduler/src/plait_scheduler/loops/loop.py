"""The shape of every loop: constants → Config → validate → run → run_once, which returns counts."""

import abc
import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
import structlog

Counts = Mapping[str, int]


@dataclass(slots=True)
class Tally:
    """What a loop did since the process began: for metrics."""

    # Turns that ended, well or not.
    turns: int = 0
    # Those that a call to the broker ended.
    errors: int = 0
    # How long all of them took.
    seconds: float = 0.0
    # What they did, by its name.
    done: Counter[str] = field(default_factory=Counter)


class Loop(abc.ABC):
    """Waits for something to do, does it once, and again, until it is cancelled.

    A call to the broker that fails ends the turn, not the loop: what was observed comes again with
    the next connection.
    """

    # For logs.
    name: str

    def __init__(self) -> None:
        self._busy = asyncio.Lock()
        self.tally = Tally()
        self._log = structlog.get_logger(self.name)

    async def run(self) -> None:
        """Runs until it is cancelled."""
        while True:
            await self.wait()
            async with self._busy:
                began = asyncio.get_running_loop().time()
                try:
                    counts = await self.run_once()
                except grpc.aio.AioRpcError as error:
                    self.tally.errors += 1
                    self._log.warning("turn.failed", code=error.code().name, error=error.details())
                    continue
                finally:
                    self.tally.turns += 1
                    self.tally.seconds += asyncio.get_running_loop().time() - began
            done = {name: count for name, count in counts.items() if count}
            self.tally.done.update(done)
            if done:
                self._log.debug("turn", **done)

    async def finish(self) -> None:
        """Waits until the turn under way is over, and lets no other begin."""
        await self._busy.acquire()

    @abc.abstractmethod
    async def wait(self) -> None:
        """Returns when there is something to do."""

    @abc.abstractmethod
    async def run_once(self) -> Counts:
        """Does what there is to do and says how much that was."""
