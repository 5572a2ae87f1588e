"""The commands of `plait flag`."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

import grpc

from plait import errors
from plait._flags import SHARE_MAX
from plait.cli._api import Api
from plait.cli._command import Exit, Stop
from plait.cli._output import age
from plait.cli._person import myself
from plait.v1 import flag_service_pb2 as pb
from plait.v1.flag_service_pb2_grpc import FlagServiceStub

if TYPE_CHECKING:
    from plait.v1.flag_service_pb2_grpc import FlagServiceAsyncStub

_COLUMNS = ("FLAG", "ON FOR", "KEYS", "VERSION", "CHANGED", "BY", "")


@dataclass(frozen=True)
class Wanted:
    """What `plait flag set` was told."""

    name: str
    state: str | None
    percent: str | None
    keys_on: tuple[str, ...]
    keys_off: tuple[str, ...]
    forget: tuple[str, ...]
    description: str | None
    changed_by: str | None
    version: int | None

    def share(self) -> int | None:
        """The share of keys; None: nothing is said of it. Raises Stop for what is none."""
        if self.state is not None and self.percent is not None:
            raise Stop(Exit.USAGE, "say on, off or --percent, and only one of them")
        if self.state is not None:
            return SHARE_MAX if self.state == "on" else 0
        return None if self.percent is None else share_of(self.percent)

    def applied(self, flag: pb.Flag) -> pb.Flag:
        """The flag with what is said. Raises Stop where nothing is."""
        share = self.share()
        keys = (self.keys_on, self.keys_off, self.forget)
        if share is None and not any(keys) and self.description is None:
            raise Stop(Exit.USAGE, "nothing to set: say on, off, --percent, --for or --description")
        made = pb.Flag(
            description=flag.description if self.description is None else self.description,
            changed_by=myself() if self.changed_by is None else self.changed_by,
        )
        made.rule.name = self.name
        made.rule.share = flag.rule.share if share is None else share
        said = {*self.keys_on, *self.keys_off, *self.forget}
        made.rule.keys_on.extend(_keys(flag.rule.keys_on, said, self.keys_on))
        made.rule.keys_off.extend(_keys(flag.rule.keys_off, said, self.keys_off))
        return made


def share_of(percent: str) -> int:
    """A share in ten-thousandths. Raises Stop for what is no percentage of at most two places."""
    try:
        share = Decimal(percent.removesuffix("%")) * (SHARE_MAX // 100)
    except InvalidOperation:
        share = Decimal(-1)
    if not share.is_finite() or share != int(share) or not 0 <= share <= SHARE_MAX:
        why = f"--percent {percent}: not 0 to 100 with at most two places after the point"
        raise Stop(Exit.USAGE, why)
    return int(share)


def percent_of(share: int) -> str:
    """A share for people."""
    return f"{Decimal(share) / (SHARE_MAX // 100):f}%"


async def set_flag(api: Api, wanted: Wanted) -> Exit:
    """Shows it as it is then."""
    flags = FlagServiceStub(api.channel)
    while True:
        before = await _found(api, flags, wanted.name)
        version = before.version if wanted.version is None else wanted.version
        request = pb.SetFlagRequest(flag=wanted.applied(before), expected_version=version)
        try:
            answer = await flags.SetFlag(request, timeout=api.timeout)
        except grpc.aio.AioRpcError as error:
            changed = errors.reason(error) == errors.Reason.VERSION_MISMATCH
            if changed and wanted.version is None:
                # Somebody else was faster; what is said is applied to what they set.
                continue
            raise
        _show(api, answer.flag)
        return Exit.OK


async def list_flags(api: Api) -> Exit:
    """All of them."""
    flags = FlagServiceStub(api.channel)
    found: list[pb.Flag] = []
    token = ""
    while True:
        request = pb.ListFlagsRequest(page_token=token)
        answer = await flags.ListFlags(request, timeout=api.timeout)
        found += answer.flags
        token = answer.next_page_token
        if not token:
            break
    api.output.items("flags", found, _COLUMNS, (_row(each) for each in found))
    return Exit.OK


async def get_flag(api: Api, name: str) -> Exit:
    """One, with its lists of keys."""
    request = pb.GetFlagRequest(name=name)
    answer = await FlagServiceStub(api.channel).GetFlag(request, timeout=api.timeout)
    _show(api, answer.flag)
    return Exit.OK


async def delete_flag(api: Api, name: str, version: int | None) -> Exit:
    """Says nothing when it is gone."""
    request = pb.DeleteFlagRequest(name=name, expected_version=version)
    await FlagServiceStub(api.channel).DeleteFlag(request, timeout=api.timeout)
    return Exit.OK


async def _found(api: Api, flags: "FlagServiceAsyncStub", name: str) -> pb.Flag:
    """The flag as it is, or one of version 0."""
    try:
        answer = await flags.GetFlag(pb.GetFlagRequest(name=name), timeout=api.timeout)
        return answer.flag
    except grpc.aio.AioRpcError as error:
        if errors.reason(error) == errors.Reason.FLAG_NOT_FOUND:
            return pb.Flag()
        raise


def _keys(before: Iterable[str], said: set[str], more: tuple[str, ...]) -> list[str]:
    return [*(key for key in before if key not in said), *dict.fromkeys(more)]


def _row(flag: pb.Flag) -> tuple[str, ...]:
    rule = flag.rule
    lists = (f"+{len(rule.keys_on)}" * bool(rule.keys_on), f"-{len(rule.keys_off)}")
    return (
        rule.name,
        percent_of(rule.share),
        " ".join(each for each in (lists[0], lists[1] * bool(rule.keys_off)) if each),
        str(flag.version),
        age(flag.update_time),
        flag.changed_by,
        flag.description,
    )


def _show(api: Api, flag: pb.Flag) -> None:
    rule = flag.rule
    changed = f"{age(flag.update_time)} ago" + (f" by {flag.changed_by}" * bool(flag.changed_by))
    lines = [
        f"{rule.name}  on for {percent_of(rule.share)}",
        *([f"  {flag.description}"] if flag.description else []),
        *(f"  on for {key}" for key in rule.keys_on),
        *(f"  off for {key}" for key in rule.keys_off),
        f"  version {flag.version}, changed {changed}",
    ]
    api.output.item(flag, "\n".join(lines))
