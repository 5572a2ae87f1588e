"""The share service: an operator's weights of keys that take turns."""

from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import grpc

from plait import errors
from plait.control.v1 import share_service_pb2 as pb
from plait.control.v1 import share_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.times import to_timestamp
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.domain.shares import Share, takes_turns
from plait_scheduler.servicers.doors import Doors
from plait_scheduler.servicers.refusing import Context, abort, invalid, pass_on, too_many
from plait_scheduler.shares.book import ShareBook, TooManySharesError, entry_key

WEIGHT_MAX = 1_000
KEY_BYTES_MAX = 256
VALID_MS_MIN = 1_000
YEAR_MS = 365 * 24 * 3600 * 1000
REASON_MAX = 1_000
SET_BY_MAX = 200
# Of the key space.
ENTRY_BYTES_MAX = 256


class ShareServicer(pb_grpc.ShareServiceServicer):
    """Answers from the book, and changes it."""

    def __init__(
        self,
        book: ShareBook,
        policies: Callable[[str], Awaitable[Sequence[MethodPolicy]]],
        doors: Doors,
        now_ms: Callable[[], int],
    ) -> None:
        """`policies` tells the policies of the contract in force, by service."""
        self._book = book
        self._policies = policies
        self._doors = doors
        self._now_ms = now_ms

    async def SetShare(self, request: pb.SetShareRequest, context: Context) -> pb.SetShareResponse:
        """Checks, writes down, puts in force."""
        await self._doors.check(context)
        faults = _faults(request)
        if faults:
            await invalid(context, faults)
        policy = (await self._policies_of([request.method])).get(request.method)
        if policy is None:
            code, reason = grpc.StatusCode.FAILED_PRECONDITION, errors.Reason.METHOD_UNKNOWN
            text = f"no contract in force has {request.method}"
            await abort(context, code, reason, text, {"method": request.method})
        if not takes_turns(policy):
            await _without_turns(context, request.method)
        share = _share(request, self._now_ms())
        try:
            await self._book.set(share)
        except TooManySharesError as error:
            await too_many(context, error.what, error.most)
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        return pb.SetShareResponse(share=_message(share, effective=True))

    async def ListShares(
        self, request: pb.ListSharesRequest, context: Context
    ) -> pb.ListSharesResponse:
        """By method and key."""
        await self._doors.check(context)
        try:
            found = await self._book.all()
            wanted = [each for each in found if request.method in ("", each.method)]
            policies = await self._policies_of({each.method for each in wanted})
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        effective = {method for method, policy in policies.items() if takes_turns(policy)}
        shares = [_message(each, effective=each.method in effective) for each in wanted]
        return pb.ListSharesResponse(shares=shares)

    async def ClearShare(
        self, request: pb.ClearShareRequest, context: Context
    ) -> pb.ClearShareResponse:
        """The key has the weight 1 first, then it is forgotten."""
        await self._doors.check(context)
        try:
            cleared = await self._book.clear(request.method, request.key)
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        if not cleared:
            code, reason = grpc.StatusCode.NOT_FOUND, errors.Reason.SHARE_NOT_FOUND
            text = f'nobody has given "{request.key}" of {request.method} a weight'
            metadata = {"method": request.method, "key": request.key}
            await abort(context, code, reason, text, metadata)
        return pb.ClearShareResponse()

    async def _policies_of(self, methods: Sequence[str] | set[str]) -> dict[str, MethodPolicy]:
        services = sorted({method.strip("/").partition("/")[0] for method in methods})
        found = [each for service in services for each in await self._policies(service)]
        return {each.method: each for each in found if each.method in methods}


def _faults(request: pb.SetShareRequest) -> list[tuple[str, str]]:
    """What cannot hold: field and why."""
    faults = []
    if len(entry_key(request.method, "").encode()) > ENTRY_BYTES_MAX:
        faults.append(("method", "is too long"))
    if not 1 <= len(request.key.encode()) <= KEY_BYTES_MAX:
        faults.append(("key", f"is not within 1 to {KEY_BYTES_MAX} bytes"))
    if not 1 <= request.weight <= WEIGHT_MAX:
        faults.append(("weight", f"is not within 1 to {WEIGHT_MAX}"))
    valid = request.HasField("valid_for")
    if valid and not VALID_MS_MIN <= request.valid_for.ToMilliseconds() <= YEAR_MS:
        faults.append(("valid_for", "is not within 1 s to 365 days"))
    if len(request.reason) > REASON_MAX:
        faults.append(("reason", f"is longer than {REASON_MAX} characters"))
    if not 1 <= len(request.set_by) <= SET_BY_MAX:
        faults.append(("set_by", f"is not within 1 to {SET_BY_MAX} characters"))
    return faults


async def _without_turns(context: Context, method: str) -> NoReturn:
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, errors.Reason.STATE_CONFLICT
    text = f"keys of {method} take no turns: its contract names no fairness_key, nor limits by key"
    await abort(context, code, reason, text, {"method": method})


def _share(request: pb.SetShareRequest, now_ms: int) -> Share:
    expire_ms = 0
    if request.HasField("valid_for"):
        expire_ms = now_ms + request.valid_for.ToMilliseconds()
    return Share(
        method=request.method,
        key=request.key,
        weight=request.weight,
        set_ms=now_ms,
        expire_ms=expire_ms,
        reason=request.reason,
        set_by=request.set_by,
    )


def _message(share: Share, *, effective: bool) -> pb.Share:
    message = pb.Share(
        method=share.method,
        key=share.key,
        weight=share.weight,
        set_time=to_timestamp(share.set_ms),
        reason=share.reason,
        set_by=share.set_by,
        effective=effective,
    )
    if share.expire_ms:
        message.expire_time.CopyFrom(to_timestamp(share.expire_ms))
    return message
