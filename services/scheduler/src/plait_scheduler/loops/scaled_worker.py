"""One worker's local processes: so many as are wanted."""

import asyncio
from collections.abc import Callable

from plait_scheduler.domain.scaling import ScalingConfig
from plait_scheduler.loops.process import ProcessSpec
from plait_scheduler.loops.scaling import Local
from plait_scheduler.loops.supervisor import SupervisorLoop


class ScaledWorker:
    """Its processes have its name where there is never more than one, else "name-1" and so on."""

    def __init__(
        self,
        name: str,
        config: ScalingConfig,
        supervisor: SupervisorLoop,
        spec: Callable[[str], ProcessSpec],
    ) -> None:
        """`spec` makes the spec of a process by its name. At least one process is to run: the
        worker announces its contract, and nobody knows its queues before.
        """
        config.validate()
        if config.least < 1:
            raise ValueError("a worker here has at least one process")
        self.name = name
        self.config = config
        self._supervisor = supervisor
        self._spec = spec
        self._names: list[str] = []
        self._leaving: dict[str, asyncio.Task[None]] = {}

    def local(self) -> Local:
        """How the scaling loop knows it."""
        return Local(self.name, self.config, self.owns, self.count, self.scale)

    def owns(self, worker: str) -> bool:
        """Whether a worker, by its id, runs in one of the processes."""
        return self._supervisor.owner(worker) in self._names

    def count(self) -> int:
        """How many there are to be."""
        return len(self._names)

    def scale(self, wanted: int) -> None:
        """Makes it so many: starts some, or asks the newest to drain. Does not wait."""
        while len(self._names) < wanted:
            name = self._free()
            self._names.append(name)
            self._supervisor.add(self._spec(name))
        while len(self._names) > wanted:
            name = self._names.pop()
            self._leaving[name] = asyncio.get_running_loop().create_task(self._leave(name))

    async def stop(self) -> None:
        """Stops all of them; none is started any more."""
        names, self._names = self._names, []
        await asyncio.gather(self._supervisor.stop(*names), *self._leaving.values())

    async def _leave(self, name: str) -> None:
        try:
            await self._supervisor.stop(name)
        finally:
            del self._leaving[name]

    def _free(self) -> str:
        if self.config.most == 1:
            return self.name
        number = 1
        while (name := f"{self.name}-{number}") in self._names or name in self._leaving:
            number += 1
        return name
