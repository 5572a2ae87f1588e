"""The rollout service: which version of a service's workers gets how much."""

from collections.abc import Callable
from typing import NoReturn

import grpc

from plait import errors
from plait.control.v1 import rollout_service_pb2 as pb
from plait.control.v1 import rollout_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.broker.key_value import VersionMismatchError
from plait_scheduler.broker.rollouts import to_message, to_plan
from plait_scheduler.domain import rollout as decision
from plait_scheduler.domain.directory import Directory
from plait_scheduler.domain.rollout import Rollout, State
from plait_scheduler.rollouts.book import (
    ROLLOUTS_MAX,
    NoRolloutError,
    RolloutBook,
    TooManyRolloutsError,
)
from plait_scheduler.servicers.doors import Doors
from plait_scheduler.servicers.refusing import Context, abort, invalid, too_many

Fault = tuple[str, str]


class RolloutServicer(pb_grpc.RolloutServiceServicer):
    """Answers from the book, and changes it."""

    def __init__(
        self,
        book: RolloutBook,
        contracts: Contracts,
        directory: Directory,
        doors: Doors,
        now_ms: Callable[[], int],
    ) -> None:
        self._book = book
        self._contracts = contracts
        self._directory = directory
        self._doors = doors
        self._now_ms = now_ms

    async def StartRollout(
        self, request: pb.StartRolloutRequest, context: Context
    ) -> pb.StartRolloutResponse:
        """Checks, then begins."""
        await self._check_ready(context)
        before = await self._before(request, context)
        plan = to_plan(request, before)
        found = decision.faults(plan) if plan else [("sticky", "is not known")]
        if plan is None or found:
            await invalid(context, found)
        if await self._contracts.in_force(plan.service) is None:
            text = f"no contract has a service {plan.service}: announce or push one"
            code, reason = grpc.StatusCode.FAILED_PRECONDITION, errors.Reason.METHOD_UNKNOWN
            await abort(context, code, reason, text, {"service": plan.service})
        running = [
            each
            for each in self._book.all()
            if each.plan.service == plan.service and each.state is State.RUNNING
        ]
        if running:
            text = (
                f"the rollout of {plan.service} to {running[0].plan.to} is under way: "
                "promote, abort or end it first"
            )
            await _conflict(context, text, plan.service)
        rollout = decision.start(plan, self._now_ms())
        try:
            await self._book.put(rollout)
        except TooManyRolloutsError:
            await too_many(context, "rollouts", ROLLOUTS_MAX)
        except VersionMismatchError:
            await _contended(context, plan.service)
        return pb.StartRolloutResponse(rollout=to_message(*self._book.get(plan.service)))

    async def SetRollout(
        self, request: pb.SetRolloutRequest, context: Context
    ) -> pb.SetRolloutResponse:
        """Of one that is over as well: it goes on then."""
        if not 0 <= request.share <= decision.WHOLE:
            await invalid(context, [("share", f"is not within 0 to {decision.WHOLE}")])
        rollout = await self._change(
            request.service,
            context,
            lambda found: decision.set_share(found, request.share, self._now_ms()),
        )
        return pb.SetRolloutResponse(rollout=rollout)

    async def PromoteRollout(
        self, request: pb.PromoteRolloutRequest, context: Context
    ) -> pb.PromoteRolloutResponse:
        """Said again, it changes nothing."""
        rollout = await self._change(
            request.service,
            context,
            lambda found: (
                found if found.state is State.PROMOTED else decision.promote(found, self._now_ms())
            ),
        )
        return pb.PromoteRolloutResponse(rollout=rollout)

    async def AbortRollout(
        self, request: pb.AbortRolloutRequest, context: Context
    ) -> pb.AbortRolloutResponse:
        """Of one that was promoted as well: what it took the place of is back then."""
        if len(request.reason) > decision.TEXT_MAX:
            await invalid(context, [("reason", f"has over {decision.TEXT_MAX} characters")])
        over = (State.ABORTED, State.ROLLED_BACK)
        rollout = await self._change(
            request.service,
            context,
            lambda found: (
                found
                if found.state in over
                else decision.abort(found, self._now_ms(), request.reason)
            ),
        )
        return pb.AbortRolloutResponse(rollout=rollout)

    async def EndRollout(
        self, request: pb.EndRolloutRequest, context: Context
    ) -> pb.EndRolloutResponse:
        """Whatever its state."""
        await self._check_ready(context)
        try:
            await self._book.remove(request.service)
        except NoRolloutError:
            await _not_found(context, request.service)
        except VersionMismatchError:
            await _contended(context, request.service)
        return pb.EndRolloutResponse()

    async def GetRollout(
        self, request: pb.GetRolloutRequest, context: Context
    ) -> pb.GetRolloutResponse:
        """As it is now."""
        await self._check_ready(context)
        try:
            return pb.GetRolloutResponse(rollout=to_message(*self._book.get(request.service)))
        except NoRolloutError:
            await _not_found(context, request.service)

    async def ListRollouts(
        self, request: pb.ListRolloutsRequest, context: Context
    ) -> pb.ListRolloutsResponse:
        """By service."""
        await self._check_ready(context)
        services = [each.plan.service for each in self._book.all()]
        return pb.ListRolloutsResponse(
            rollouts=[to_message(*self._book.get(service)) for service in services]
        )

    async def _before(self, request: pb.StartRolloutRequest, context: Context) -> str:
        """The version before: as it was said, or as there is only one."""
        if request.HasField("from"):
            return str(getattr(request, "from"))
        prefix = f"/{request.service}/"
        attached = (entry.attached for entry in self._directory.workers())
        serving = (e for e in attached if any(m.startswith(prefix) for m in e.methods))
        versions = {each.version for each in serving} - {request.to}
        if len(versions) > 1:
            named = ", ".join(sorted(f'"{version}"' for version in versions))
            text = f"is to be said: workers of the versions {named} are attached"
            await invalid(context, [("from", text)])
        return versions.pop() if versions else ""

    async def _change(
        self, service: str, context: Context, how: Callable[[Rollout], Rollout]
    ) -> pb.Rollout:
        await self._check_ready(context)
        try:
            await self._book.change(service, how)
        except NoRolloutError:
            await _not_found(context, service)
        except VersionMismatchError:
            await _contended(context, service)
        return to_message(*self._book.get(service))

    async def _check_ready(self, context: Context) -> None:
        await self._doors.check(context)
        await self._book.load()


async def _not_found(context: Context, service: str) -> NoReturn:
    code, reason = grpc.StatusCode.NOT_FOUND, errors.Reason.ROLLOUT_NOT_FOUND
    await abort(context, code, reason, f"service {service} has no rollout", {"service": service})


async def _conflict(context: Context, text: str, service: str) -> NoReturn:
    code, reason = grpc.StatusCode.FAILED_PRECONDITION, errors.Reason.STATE_CONFLICT
    await abort(context, code, reason, text, {"service": service})


async def _contended(context: Context, service: str) -> NoReturn:
    code, reason = grpc.StatusCode.ABORTED, errors.Reason.VERSION_MISMATCH
    text = f"others write the rollout of {service}"
    await abort(context, code, reason, text, {"service": service})
