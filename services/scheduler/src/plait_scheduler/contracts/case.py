"""An announcement with all that its decision needs."""

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace

from plait_scheduler.contracts.records import ContractRecord, shortened
from plait_scheduler.contracts.reviewer import Reviewed
from plait_scheduler.domain.change import Effect
from plait_scheduler.domain.compatibility import compare
from plait_scheduler.domain.contract import Contract, ServiceShape
from plait_scheduler.domain.events import ContractAnnounced
from plait_scheduler.domain.registry import Review
from plait_scheduler.domain.routes import Route, assign
from plait_scheduler.domain.standing import Standing, standing
from plait_scheduler.domain.words import sentence
from plait_scheduler.domain.work import Finding, judge


@dataclass(frozen=True, slots=True)
class Docket:
    """One service of an announcement."""

    standing: Standing
    # Its number.
    version: int
    # What is known of the service; None: nothing.
    record: ContractRecord | None
    # Whether it was accepted before and may stay beside the one in force.
    may_stay_beside: bool = False

    @property
    def is_beside(self) -> bool:
        """Whether another contract stays in force."""
        return self.standing in (Standing.BESIDE, Standing.NEW_BESIDE)

    @property
    def keeps_policies(self) -> bool:
        """Whether the policies that are in force stay as they are."""
        return self.is_beside or self.standing is Standing.SAME


@dataclass(frozen=True, slots=True)
class Case:
    """An announcement, where it stands, and what it changes."""

    announced: ContractAnnounced
    # By service.
    dockets: dict[str, Docket]
    reviewed: Reviewed

    def problems(self, review: Review) -> dict[str, tuple[Finding, ...]]:
        """What speaks against it, by service."""
        found = {name: self._problems(review, name) for name in self.dockets}
        return {name: problems for name, problems in found.items() if problems}

    def beside(self, services: Set[str]) -> "Case":
        """The same, with these services beside what is in force."""
        dockets = {
            name: replace(one, standing=Standing.BESIDE) if name in services else one
            for name, one in self.dockets.items()
        }
        return replace(self, dockets=dockets)

    def _problems(self, review: Review, service: str) -> tuple[Finding, ...]:
        in_force = self.reviewed.in_force.get(service)
        if self.dockets[service].standing is Standing.NEW_BESIDE and in_force is not None:
            # It replaces nothing, so only that its bytes can be read matters.
            changes = compare(in_force, self.reviewed.contract, service)
            return tuple(judge(each, {}, 0) for each in changes if each.breaks_bytes)
        findings = review.findings.get(service, ())
        return tuple(each for each in findings if each.effect is not Effect.HARMLESS)

    def routes(self, service: ServiceShape) -> dict[str, Route]:
        """How tasks of a service find workers under this contract."""
        record = self.dockets[service.name].record
        return assign(
            self.reviewed.contract,
            service,
            self.reviewed.in_force.get(service.name),
            record.routes if record else {},
            [each.routes for each in record.history] if record else [],
            self.dockets[service.name].version,
        )


def as_kept(problems: Iterable[Finding]) -> tuple[str, ...]:
    """Problems as the records keep them."""
    return shortened(f"{each.change.subject}: {sentence(each)}" for each in problems)


def docket(
    announced: ContractAnnounced,
    contract: Contract,
    service: ServiceShape,
    record: ContractRecord | None,
    attached: Iterable[str],
) -> Docket:
    """Where a service stands. `attached` are the digests that its attached workers announced."""
    known = record.version_of(contract.fingerprint(service)) if record else None
    stands = standing(
        version=known,
        in_force=record.version if record else None,
        attached=record.versions_of(attached) if record else (),
        for_worker=announced.for_worker,
        replace=announced.replace or announced.validate_only,
    )
    version = known or (record.next_version() if record else 1)
    return Docket(stands, version, record, known is not None and not announced.replace)
