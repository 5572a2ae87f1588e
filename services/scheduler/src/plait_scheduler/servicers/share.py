"""The share service: an operator's weights of keys that take turns."""

from collections.abc import Callable
from typing import NoReturn

import grpc

from plait import errors
from plait.control.v1 import share_service_pb2 as pb
from plait.control.v1 import share_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.broker.times import to_timestamp
from plait_scheduler.domain.shares import Share, takes_turns
from plait_scheduler.servicers import orders
from plait_scheduler.servicers.doors import Doors
from plait_scheduler.servicers.refusing import (
    Context,
    abort,
    invalid,
    pass_on,
    too_many,
    unknown_method,
)
from plait_scheduler.shares.book import ShareBook, TooManySharesError, entry_key

WEIGHT_MAX = 1_000
KEY_BYTES_MAX = 256
# Of the key space.
ENTRY_BYTES_MAX = 256


class ShareServicer(pb_grpc.ShareServiceServicer):
    """Answers from the book, and changes it."""

    def __init__(
        self,
        book: ShareBook,
        contracts: Contracts,
        doors: Doors,
        now_ms: Callable[[], int],
    ) -> None:
        self._book = book
        self._contracts = contracts
        self._doors = doors
        self._now_ms = now_ms

    async def SetShare(self, request: pb.SetShareRequest, context: Context) -> pb.SetShareResponse:
        """Checks, writes down, puts in force."""
        await self._doors.check(context)
        faults = _faults(request)
        if faults:
            await invalid(context, faults)
        try:
            policy = (await self._contracts.policies_of([request.method])).get(request.method)
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        if policy is None:
            await unknown_method(context, request.method)
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
            policies = await self._contracts.policies_of({each.method for each in wanted})
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


def _faults(request: pb.SetShareRequest) -> list[tuple[str, str]]:
    """What cannot hold: field and why."""
    faults = []
    if len(entry_key(request.method, "").encode()) > ENTRY_BYTES_MAX:
        faults.append(("method", "is too long"))
    if not 1 <= len(request.key.encode()) <= KEY_BYTES_MAX:
        faults.append(("key", f"is not within 1 to {KEY_BYTES_MAX} bytes"))
    if not 1 <= request.weight <= WEIGHT_MAX:
        faults.append(("weight", f"is not within 1 to {WEIGHT_MAX}"))
    return faults + orders.faults(request)


async def _without_turns(context: Context, method: str) -> NoReturn:
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, errors.Reason.STATE_CONFLICT
    text = f"keys of {method} take no turns: its contract names no fairness_key, nor limits by key"
    await abort(context, code, reason, text, {"method": method})


def _share(request: pb.SetShareRequest, now_ms: int) -> Share:
    return Share(
        method=request.method,
        key=request.key,
        weight=request.weight,
        set_ms=now_ms,
        expire_ms=orders.expire_ms(request, now_ms),
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
