"""The operator's weights: a value each in the key space, and in force by a call for each method.

A weight is written down before it is put in force, and is forgotten after the broker has done
without it. So whoever leads next finds what has to be done once more, and doing it again changes
nothing. Contracts are no concern of it: the broker keeps weights apart from policies.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable

import msgspec

from plait_scheduler.broker.control import Control
from plait_scheduler.broker.key_value import KeyValue
from plait_scheduler.domain.shares import Share

PREFIX = "scheduler/shares"
# Of one method, as the broker takes them; and of all, since the key space is small.
KEYS_MAX = 1_000
SHARES_MAX = 10_000


class TooManySharesError(Exception):
    """`most` keys have weights: those of one method, or all."""

    def __init__(self, what: str, most: int) -> None:
        super().__init__(f"{most} {what}")
        self.what = what
        self.most = most


def entry_key(method: str, key: str) -> str:
    """Where a weight is kept. A key may be longer than the key space takes: here is its digest."""
    return f"{PREFIX}{method}#{hashlib.sha256(key.encode()).hexdigest()[:32]}"


class ShareBook:
    """Errors are grpc.aio.AioRpcError."""

    def __init__(self, key_value: KeyValue, control: Control, now_ms: Callable[[], int]) -> None:
        self._key_value = key_value
        self._control = control
        self._now_ms = now_ms
        # By method and key.
        self._shares: dict[str, dict[str, Share]] = {}
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
        return min((each.expire_ms for each in self._each() if each.expire_ms), default=None)

    async def all(self) -> list[Share]:
        """What is set, by method and key."""
        async with self._lock:
            await self._load()
            return sorted(self._each(), key=lambda each: (each.method, each.key))

    async def set(self, share: Share) -> None:
        """Puts a weight in force, in place of the one before. Raises TooManySharesError."""
        async with self._lock:
            await self._load()
            self._check_room(share)
            name = entry_key(share.method, share.key)
            await self._key_value.put(name, msgspec.json.encode(share))
            self._shares.setdefault(share.method, {})[share.key] = share
            # Until it is in force, whatever comes in between.
            self._unsettled = True
            self.changed.set()
            await self._enforce([share.method])
            self._unsettled = False

    async def clear(self, method: str, key: str) -> bool:
        """Takes the weight from a key. False where nobody has given it one."""
        async with self._lock:
            await self._load()
            share = self._shares.get(method, {}).get(key)
            if share is None:
                return False
            await self._end([share])
            return True

    async def settle(self) -> dict[str, int]:
        """Puts in force what is written down, and ends what is over. Says how much that was."""
        async with self._lock:
            await self._load()
            over = [each for each in self._each() if each.is_over(self._now_ms())]
            if over:
                await self._end(over)
            again = sorted(self._shares) if self._unsettled else []
            await self._enforce(again)
            self._unsettled = False
            return {"ended": len(over), "settled": len(again)}

    def _each(self) -> Iterable[Share]:
        return (share for shares in self._shares.values() for share in shares.values())

    def _check_room(self, share: Share) -> None:
        own = self._shares.get(share.method, {})
        if share.key in own:
            return
        if len(own) >= KEYS_MAX:
            raise TooManySharesError("keys of a method with weights", KEYS_MAX)
        if sum(map(len, self._shares.values())) >= SHARES_MAX:
            raise TooManySharesError("keys with weights", SHARES_MAX)

    async def _load(self) -> None:
        if self._loaded:
            return
        found = await self._key_value.all(PREFIX)
        self._shares = {}
        for entry in found.values():
            share = msgspec.json.decode(entry.value, type=Share)
            self._shares.setdefault(share.method, {})[share.key] = share
        self._loaded = True

    async def _end(self, shares: list[Share]) -> None:
        for share in shares:
            del self._shares[share.method][share.key]
        try:
            await self._enforce(sorted({share.method for share in shares}))
            for share in shares:
                await self._key_value.delete(entry_key(share.method, share.key))
        except BaseException:
            # Some are still written down; which ones is read again.
            self._loaded = False
            self._unsettled = True
            self.changed.set()
            raise
        self._shares = {method: own for method, own in self._shares.items() if own}

    async def _enforce(self, methods: Iterable[str]) -> None:
        for method in methods:
            own = self._shares.get(method, {})
            await self._control.set_weights(method, {key: own[key].weight for key in sorted(own)})
