"""The limit service: an operator's limits in place of a contract's."""

from collections.abc import Callable

import grpc

from plait import errors
from plait.control.v1 import limit_service_pb2 as pb
from plait.control.v1 import limit_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.broker.times import to_duration, to_timestamp
from plait_scheduler.domain.limits import Override, Rate, limited
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.limits.book import OVERRIDES_MAX, PREFIX, LimitBook, TooManyLimitsError
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

# As of a policy.
RATE_MAX = 1_000_000_000
CONCURRENCY_MAX = 2**31 - 1
PERIOD_MS = 1000
# Of the key space.
KEY_BYTES_MAX = 256


class LimitServicer(pb_grpc.LimitServiceServicer):
    """Answers from the book, and changes it."""

    def __init__(
        self,
        book: LimitBook,
        contracts: Contracts,
        doors: Doors,
        now_ms: Callable[[], int],
    ) -> None:
        self._book = book
        self._contracts = contracts
        self._doors = doors
        self._now_ms = now_ms

    async def SetLimit(self, request: pb.SetLimitRequest, context: Context) -> pb.SetLimitResponse:
        """Checks, writes down, puts in force."""
        await self._doors.check(context)
        faults = _faults(request)
        if faults:
            await invalid(context, faults)
        policy = (await self._contracts.policies_of([request.method])).get(request.method)
        if policy is None:
            await unknown_method(context, request.method)
        override = _override(request, self._now_ms())
        try:
            await self._book.set(override)
        except TooManyLimitsError:
            await too_many(context, "methods with limits of an operator", OVERRIDES_MAX)
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        return pb.SetLimitResponse(method=_message(override.method, policy, override))

    async def ListLimits(
        self, request: pb.ListLimitsRequest, context: Context
    ) -> pb.ListLimitsResponse:
        """By name."""
        await self._doors.check(context)
        overrides = {each.method: each for each in await self._book.all()}
        wanted = {*overrides}
        if request.service:
            prefix = f"/{request.service}/"
            wanted = {each for each in overrides if each.startswith(prefix)}
            wanted |= {each.method for each in await self._contracts.policies(request.service)}
        if request.method:
            wanted = {request.method}
        policies = await self._contracts.policies_of(wanted)
        if request.method and request.method not in {*policies, *overrides}:
            await unknown_method(context, request.method)
        found = [
            _message(method, policies.get(method), overrides.get(method))
            for method in sorted(wanted)
        ]
        return pb.ListLimitsResponse(methods=found)

    async def ClearLimit(
        self, request: pb.ClearLimitRequest, context: Context
    ) -> pb.ClearLimitResponse:
        """The contract's limits come first, then it is forgotten."""
        await self._doors.check(context)
        try:
            cleared = await self._book.clear(request.method)
        except grpc.aio.AioRpcError as error:
            await pass_on(context, error)
        if not cleared:
            code, reason = grpc.StatusCode.NOT_FOUND, errors.Reason.LIMIT_NOT_FOUND
            text = f"nobody has set limits of {request.method}"
            await abort(context, code, reason, text, {"method": request.method})
        policy = (await self._contracts.policies_of([request.method])).get(request.method)
        return pb.ClearLimitResponse(method=_message(request.method, policy, None))


def _faults(request: pb.SetLimitRequest) -> list[tuple[str, str]]:
    """What cannot hold: field and why."""
    faults = []
    if len(f"{PREFIX}{request.method}".encode()) > KEY_BYTES_MAX:
        faults.append(("method", "is too long"))
    if not request.HasField("rate") and not request.HasField("concurrency"):
        faults.append(("rate", "set a rate, or how many may run at once"))
    rate = request.rate
    if rate.limit > RATE_MAX or rate.burst > RATE_MAX:
        faults.append(("rate", f"is over {RATE_MAX}"))
    if rate.HasField("period") and not 1 <= rate.period.ToMilliseconds() <= orders.YEAR_MS:
        faults.append(("rate.period", "is not within 1 ms to 365 days"))
    if request.concurrency > CONCURRENCY_MAX:
        faults.append(("concurrency", f"is over {CONCURRENCY_MAX}"))
    return faults + orders.faults(request)


def _override(request: pb.SetLimitRequest, now_ms: int) -> Override:
    rate = None
    if request.HasField("rate"):
        period_ms = request.rate.period.ToMilliseconds() or PERIOD_MS
        burst = request.rate.burst or request.rate.limit
        rate = Rate(request.rate.limit, period_ms, burst)
    return Override(
        method=request.method,
        rate=rate,
        concurrency=request.concurrency if request.HasField("concurrency") else None,
        set_ms=now_ms,
        expire_ms=orders.expire_ms(request, now_ms),
        reason=request.reason,
        set_by=request.set_by,
    )


def _message(
    method: str, policy: MethodPolicy | None, override: Override | None
) -> pb.LimitedMethod:
    message = pb.LimitedMethod(method=method)
    if policy is not None:
        message.contract.CopyFrom(_limits(policy))
        message.in_force.CopyFrom(_limits(limited(policy, override)))
    if override is not None:
        told = message.override
        told.set_time.CopyFrom(to_timestamp(override.set_ms))
        told.reason, told.set_by = override.reason, override.set_by
        if override.rate is not None:
            told.rate.CopyFrom(_rate(override.rate.limit, override.rate.period_ms))
            told.rate.burst = override.rate.burst
        if override.concurrency is not None:
            told.concurrency = override.concurrency
        if override.expire_ms:
            told.expire_time.CopyFrom(to_timestamp(override.expire_ms))
    return message


def _limits(policy: MethodPolicy) -> pb.Limits:
    limits = pb.Limits(
        concurrency=policy.concurrency_limit, concurrency_per_key=policy.concurrency_per_key
    )
    if policy.rate_limit is not None:
        limits.rate.CopyFrom(_rate(policy.rate_limit.limit, policy.rate_limit.period_ms))
        limits.rate.burst = policy.rate_limit.burst
        limits.rate.by_key = policy.rate_limit.by_key
    return limits


def _rate(limit: int, period_ms: int) -> pb.Rate:
    return pb.Rate(limit=limit, period=to_duration(period_ms))
