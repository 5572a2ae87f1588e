"""The operator's limits: a value each in the key space, and in force by the policies of the broker.

A limit is written down before it is put in force, and is forgotten after the contract's is in force
again. So whoever leads next finds what has to be done once more, and doing it again changes
nothing. Contracts and limits come into force one after the other, never at once: else an older
contract's limits could overtake a newer one's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec

from plait_scheduler.broker.control import Control
from plait_scheduler.broker.key_value import KeyValue
from plait_scheduler.domain.limits import Override, limited
from plait_scheduler.domain.policy import MethodPolicy

PREFIX = "scheduler/limits/"
# The key space is small.
OVERRIDES_MAX = 1000


class TooManyLimitsError(Exception):
    """OVERRIDES_MAX methods have limits of an operator."""


class LimitBook:
    """Errors are grpc.aio.AioRpcError."""

    def __init__(
        self,
        key_value: KeyValue,
        control: Control,
        policies_of: Callable[[Iterable[str]], Awaitable[Mapping[str, MethodPolicy]]],
        now_ms: Callable[[], int],
    ) -> None:
        """`policies_of` tells what the contracts in force say of methods."""
        self._key_value = key_value
        self._control = control
        self._policies_of = policies_of
        self._now_ms = now_ms
        self._overrides: dict[str, Override] = {}
        self._loaded = False
        # Whether what is written down may not be in force.
        self._unsettled = True
        self._lock = asyncio.Lock()
        # Set when there may be something to do.
        self.changed = asyncio.Event()

    def reset(self) -> None:
        """Another scheduler may have written meanwhile, and the broker may not have everything."""
        self._loaded = False
        self._unsettled = True
        self.changed.set()

    def wake_ms(self) -> int | None:
        """When there is something to do, in milliseconds since 1970; None: at no time."""
        if self._unsettled:
            return 0
        return min(
            (each.expire_ms for each in self._overrides.values() if each.expire_ms), default=None
        )

    @contextlib.asynccontextmanager
    async def deciding(
        self,
    ) -> AsyncIterator[Callable[[Iterable[MethodPolicy]], list[MethodPolicy]]]:
        """While a contract is put in force. Gives its policies the limits that operators want."""
        async with self._lock:
            await self._load()
            yield self._limited

    async def all(self) -> list[Override]:
        """What is set, by method."""
        async with self._lock:
            await self._load()
            return [override for _, override in sorted(self._overrides.items())]

    async def set(self, override: Override) -> None:
        """Puts limits of a method in force, in place of those set before. Raises
        TooManyLimitsError.
        """
        async with self._lock:
            await self._load()
            if override.method not in self._overrides and len(self._overrides) >= OVERRIDES_MAX:
                raise TooManyLimitsError
            await self._key_value.put(PREFIX + override.method, msgspec.json.encode(override))
            self._overrides[override.method] = override
            # Until it is in force, whatever comes in between.
            self._unsettled = True
            self.changed.set()
            await self._enforce([override.method])
            self._unsettled = False

    async def clear(self, method: str) -> bool:
        """Puts the contract's limits in force. False where nobody has set others."""
        async with self._lock:
            await self._load()
            if method not in self._overrides:
                return False
            await self._end(method)
            return True

    async def settle(self) -> dict[str, int]:
        """Puts in force what is written down, and ends what is over. Says how much that was."""
        async with self._lock:
            await self._load()
            over = [
                each.method for each in self._overrides.values() if each.is_over(self._now_ms())
            ]
            for method in over:
                await self._end(method)
            again = sorted(self._overrides) if self._unsettled else []
            await self._enforce(again)
            self._unsettled = False
            return {"ended": len(over), "settled": len(again)}

    async def _load(self) -> None:
        if self._loaded:
            return
        found = await self._key_value.all(PREFIX)
        read = [msgspec.json.decode(entry.value, type=Override) for entry in found.values()]
        self._overrides = {override.method: override for override in read}
        self._loaded = True

    async def _end(self, method: str) -> None:
        override = self._overrides.pop(method)
        try:
            await self._enforce([method])
            await self._key_value.delete(PREFIX + method)
        except BaseException:
            # It is still written down.
            self._overrides[method] = override
            self._unsettled = True
            self.changed.set()
            raise

    async def _enforce(self, methods: Sequence[str]) -> None:
        """Methods that no contract has any more have nothing to put in force."""
        policies = self._limited((await self._policies_of(methods)).values())
        if policies:
            await self._control.set_limits(policies)

    def _limited(self, policies: Iterable[MethodPolicy]) -> list[MethodPolicy]:
        return [limited(policy, self._overrides.get(policy.method)) for policy in policies]
