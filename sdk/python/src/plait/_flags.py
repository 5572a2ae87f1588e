"""Feature flags, as a handler reads them. The broker tells workers of them; what a flag says for a
key is worked out here."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final, TypeAlias

from plait import _run
from plait.v1 import flag_service_pb2, worker_service_pb2

Rules: TypeAlias = Mapping[str, flag_service_pb2.FlagRule]

# All keys; a share is told in parts of it.
SHARE_MAX: Final = 10_000

_NONE: Final[Rules] = MappingProxyType({})
# A flag of another name is never set, so there is nothing to remember of it.
_NAME: Final = re.compile(r"[a-z0-9._-]{1,64}", re.ASCII)

# The flags of a call that is served directly.
of_call: ContextVar[Rules] = ContextVar("plait_flags", default=_NONE)


def flag(name: str, *, default: bool = False, key: str | None = None) -> bool:
    """Whether a feature flag is on.

    A handler sees the flags as they were when its attempt began, all the time.

    default: the answer where there is no such flag, and outside a handler.
    key: for whom it is asked. Default: the task's ordering key, else its idempotency key, else that
        of its flow, else its id. A direct call has none: for it a flag is on that is on for
        everybody.
    """
    if _NAME.fullmatch(name) is None:
        return default
    run = _run.current.get()
    if run is not None:
        return is_on(_read(run, name), _key(run) if key is None else key, default=default)
    rule = of_call.get().get(name)
    return default if rule is None else is_on(rule, key, default=default)


def is_on(rule: flag_service_pb2.FlagRule, key: str | None, *, default: bool) -> bool:
    """What a flag says for a key; None is of a call that has none."""
    if rule.missing:
        return default
    if key is not None and key in rule.keys_on:
        return True
    if key is not None and key in rule.keys_off:
        return False
    if rule.share >= SHARE_MAX:
        return True
    return key is not None and position(rule.name, key) < rule.share


def position(name: str, key: str) -> int:
    """Where a key stands among all, 0 to 9,999: equal in every language."""
    first = hashlib.sha256(f"{name}\0{key}".encode()).digest()[:8]
    return int.from_bytes(first, "big") % SHARE_MAX


class Board:
    """The flags that a worker was told of."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        # Never changed, only replaced: an attempt that began keeps what it has.
        self.now: Rules = _NONE

    def replace(self, flags: Iterable[flag_service_pb2.FlagRule]) -> None:
        """These are all."""
        self.now = {each.name: each for each in flags}

    def change(self, frame: worker_service_pb2.FlagFrame) -> None:
        """Some changed."""
        now = {**self.now, **{each.name: each for each in frame.flags}}
        for name in frame.removed:
            now.pop(name, None)
        self.now = now


def _read(run: _run.Run, name: str) -> flag_service_pb2.FlagRule:
    """A flag of an attempt; one that is not there is read, too, as missing."""
    known = run.flags_read.get(name)
    if known is not None:
        return known
    # What earlier runs of the flow had read holds for this one.
    recorded = run.extra.flags if run.extra is not None else ()
    rule = next((each for each in recorded if each.name == name), None) or run.flags.get(name)
    rule = rule or flag_service_pb2.FlagRule(name=name, missing=True)
    run.flags_read = {**run.flags_read, name: rule}
    return rule


def _key(run: _run.Run) -> str:
    extra = run.extra
    if extra is None:
        return f"t{run.lease[0]:016x}"
    said = extra.ordering_key or extra.idempotency_key or extra.flag_key
    return said or f"t{extra.parent or run.lease[0]:016x}"
