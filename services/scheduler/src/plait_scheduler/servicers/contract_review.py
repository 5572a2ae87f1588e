"""The review service: what a contract would change, leave to change it, and what was decided."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence

from plait.control.v1 import contract_review_service_pb2 as pb
from plait.control.v1 import contract_review_service_pb2_grpc as pb_grpc
from plait.v1 import task_pb2
from plait_scheduler.broker import refusals
from plait_scheduler.broker.policies import to_method_info
from plait_scheduler.broker.times import to_duration, to_timestamp
from plait_scheduler.contracts.records import ALLOWANCE_MS, Allowance, Decision, Records
from plait_scheduler.contracts.reviewer import Reviewer
from plait_scheduler.descriptors.contract_reader import ContractReadError, read_contract
from plait_scheduler.domain.change import Effect
from plait_scheduler.domain.registry import Invalid
from plait_scheduler.domain.work import Affected, Finding
from plait_scheduler.servicers.doors import Doors
from plait_scheduler.servicers.refusing import Context, invalid, refuse

# For the look at the work in flight: a person waits longer than an announcement.
LOOK_SECONDS = 20.0
SERVICES_MAX = 256
CHANGES_MAX = 1000
REASON_MAX = 1000
ALLOWED_BY_MAX = 200
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_EFFECTS = {
    Effect.HARMLESS: pb.CHANGE_EFFECT_HARMLESS,
    Effect.NEEDS_DRAIN: pb.CHANGE_EFFECT_NEEDS_DRAIN,
    Effect.REFUSED: pb.CHANGE_EFFECT_REFUSED,
}


class ContractReviewServicer(pb_grpc.ContractReviewServiceServicer):
    """Answers as the registry would decide."""

    def __init__(
        self,
        reviewer: Reviewer,
        records: Records,
        doors: Doors,
        attached: Callable[[str], Iterable[Sequence[str]]],
        now_ms: Callable[[], int],
        *,
        tolerant: bool,
    ) -> None:
        self._reviewer = reviewer
        self._records = records
        self._doors = doors
        self._attached = attached
        self._now_ms = now_ms
        self._tolerant = tolerant
        # A look at the work in flight costs the broker something; decisions do not wait for it.
        self._one = asyncio.Lock()

    async def ReviewContract(
        self, request: pb.ReviewContractRequest, context: Context
    ) -> pb.ReviewContractResponse:
        """Changes by service, worst first."""
        await self._doors.check(context)
        await _check_services(request.services, context)
        digest = hashlib.sha256(request.descriptor_set).hexdigest()
        try:
            contract = read_contract(request.descriptor_set, request.services, digest)
        except ContractReadError as error:
            await refuse(context, refusals.contract_unreadable(request.services, str(error)))
        async with self._one:
            reviewed = await self._reviewer.review(contract, look_seconds=LOOK_SECONDS)
        verdict = reviewed.verdict
        if isinstance(verdict, Invalid):
            await refuse(context, refusals.policy_invalid(request.services, verdict.violations))
        in_force = reviewed.in_force
        return pb.ReviewContractResponse(
            services=[
                pb.ServiceReview(
                    service=service.name,
                    in_force=in_force[service.name].digest if service.name in in_force else "",
                    changes=_changes(verdict.findings.get(service.name, ())),
                )
                for service in reviewed.contract.services
            ],
            methods=[to_method_info(policy) for policy in verdict.policies],
            refused=bool(verdict.problems) and not self._tolerant,
            tolerant=self._tolerant,
            digest=digest,
        )

    async def AllowContract(
        self, request: pb.AllowContractRequest, context: Context
    ) -> pb.AllowContractResponse:
        """Keeps the leave; the announcement uses it up."""
        await self._doors.check(context)
        await _check_services(request.services, context)
        reason, allowed_by = request.reason.strip(), request.allowed_by.strip()
        if not _DIGEST.fullmatch(request.digest):
            await invalid(context, [("digest", "is not a SHA-256 in hexadecimal")])
        if not 1 <= len(reason) <= REASON_MAX:
            await invalid(context, [("reason", f"has 1 to {REASON_MAX} characters")])
        if not 1 <= len(allowed_by) <= ALLOWED_BY_MAX:
            await invalid(context, [("allowed_by", f"has 1 to {ALLOWED_BY_MAX} characters")])
        now_ms = self._now_ms()
        allowance = Allowance(request.digest, reason, allowed_by, now_ms)
        await self._records.allow(request.services, allowance)
        return pb.AllowContractResponse(expire_time=to_timestamp(now_ms + ALLOWANCE_MS))

    async def ListContractDecisions(
        self, request: pb.ListContractDecisionsRequest, context: Context
    ) -> pb.ListContractDecisionsResponse:
        """From the record of the service."""
        await self._doors.check(context)
        await _check_services([request.service], context)
        record = await self._records.of(request.service)
        decisions = record.decisions() if record else ()
        attached = [set(each) for each in self._attached(request.service)]
        answers = []
        for decision in decisions:
            digests = {decision.digest, *decision.digests}
            workers = sum(bool(each & digests) for each in attached)
            answers.append(_decision(decision, workers))
        return pb.ListContractDecisionsResponse(decisions=answers)


async def _check_services(services: Sequence[str], context: Context) -> None:
    """The names become keys, whose length is bounded."""
    if not 1 <= len(services) <= SERVICES_MAX:
        await invalid(context, [("services", f"are 1 to {SERVICES_MAX}")])
    if not all(1 <= len(service.encode()) <= 200 for service in services):
        await invalid(context, [("services", "have names of 1 to 200 bytes")])


def _changes(findings: Sequence[Finding]) -> list[pb.ContractChange]:
    order = (Effect.REFUSED, Effect.NEEDS_DRAIN, Effect.HARMLESS)
    worst_first = sorted(findings, key=lambda finding: order.index(finding.effect))
    return [_change(finding) for finding in worst_first[:CHANGES_MAX]]


def _change(finding: Finding) -> pb.ContractChange:
    change, harmless = finding.change, finding.effect is Effect.HARMLESS
    return pb.ContractChange(
        effect=_EFFECTS[finding.effect],
        kind=change.kind,
        subject=change.subject,
        description=change.description,
        advice="" if harmless else change.advice,
        work=_work(finding.affected) if finding.affected else None,
    )


def _work(affected: Affected) -> pb.AffectedWork:
    return pb.AffectedWork(
        counts=[
            pb.AffectedCount(state=task_pb2.TaskState.Value(f"TASK_STATE_{state}"), count=count)
            for state, count in affected.counts.items()
        ],
        recorded_children=affected.recorded,
        more=affected.more,
        first_tasks=affected.first,
        oldest_age=to_duration(affected.oldest_ms),
    )


def _decision(decision: Decision, workers: int) -> pb.ContractDecision:
    allowed = decision.allowed
    return pb.ContractDecision(
        digest=decision.digest,
        version=decision.version,
        decide_time=to_timestamp(decision.decide_time_ms),
        scheduler=decision.scheduler,
        overridden=decision.tolerated,
        reason=allowed.reason if allowed else "",
        allowed_by=allowed.allowed_by if allowed else "",
        allow_time=to_timestamp(allowed.allow_time_ms) if allowed else None,
        beside=decision.beside,
        workers=workers,
    )
