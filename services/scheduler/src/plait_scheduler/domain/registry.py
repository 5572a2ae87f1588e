"""The registry's decision on an announced contract."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from plait_scheduler.domain.change import Change, Effect, Part
from plait_scheduler.domain.compatibility import compare
from plait_scheduler.domain.contract import Contract
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.domain.policy_compiler import compile_contract
from plait_scheduler.domain.violation import Violation
from plait_scheduler.domain.work import Finding, Work, judge


@dataclass(frozen=True, slots=True)
class Invalid:
    """Its policies cannot hold."""

    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What it changes, before anybody has looked at the work in flight."""

    # One policy a unary method.
    policies: tuple[MethodPolicy, ...]
    # By service, for services that are in force.
    changes: Mapping[str, tuple[Change, ...]]

    def wanted(self) -> dict[str, frozenset[Part]]:
        """What to look for, by method."""
        found: dict[str, frozenset[Part]] = {}
        for changes in self.changes.values():
            for change in changes:
                for method in change.look.methods if change.look else ():
                    parts = change.look.parts if change.look else frozenset()
                    found[method] = found.get(method, frozenset()) | parts
        return found


@dataclass(frozen=True, slots=True)
class Review:
    """What it changes and what that means now."""

    policies: tuple[MethodPolicy, ...]
    # By service, for services that are in force.
    findings: Mapping[str, tuple[Finding, ...]]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Why it cannot take the place of what is in force; empty: it can."""
        return tuple(
            finding
            for findings in self.findings.values()
            for finding in findings
            if finding.effect is not Effect.HARMLESS
        )


def compare_with(
    announced: Contract, in_force: Mapping[str, Contract], known: Set[str]
) -> Comparison | Invalid:
    """Compares a contract with those that it would replace, by service. `known` are the services
    of which exactly this was in force before.
    """
    compiled = compile_contract(announced)
    if compiled.violations:
        return Invalid(compiled.violations)
    changes = {
        service.name: tuple(
            compare(in_force[service.name], announced, service.name, service.name in known)
        )
        for service in announced.services
        if service.name in in_force
    }
    return Comparison(compiled.policies, changes)


def review(comparison: Comparison, work: Mapping[str, Work], now_ms: int) -> Review:
    """Says what the changes mean with this work in flight, by method."""
    findings = {
        service: tuple(judge(change, work, now_ms) for change in changes)
        for service, changes in comparison.changes.items()
    }
    return Review(comparison.policies, findings)
