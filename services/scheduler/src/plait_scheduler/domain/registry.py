"""The registry's decision on an announced contract."""

from collections.abc import Mapping
from dataclasses import dataclass

from plait_scheduler.domain.compatibility import compare
from plait_scheduler.domain.contract import Contract
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.domain.policy_compiler import compile_contract
from plait_scheduler.domain.violation import Problem, Violation


@dataclass(frozen=True, slots=True)
class Accepted:
    """The contract takes effect."""

    # One policy a unary method.
    policies: tuple[MethodPolicy, ...]
    # What would have refused it outside development.
    tolerated: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Invalid:
    """Its policies cannot hold."""

    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Incompatible:
    """Tasks of the contract in force could not be kept."""

    problems: tuple[Problem, ...]


Verdict = Accepted | Invalid | Incompatible


def decide(announced: Contract, in_force: Mapping[str, Contract], tolerant: bool) -> Verdict:
    """Decides on a contract. `in_force` holds, by service, the contract it would replace.

    Tolerant, as in development, a contract that does not fit the one in force is accepted all the
    same.
    """
    compiled = compile_contract(announced)
    if compiled.violations:
        return Invalid(compiled.violations)
    problems = tuple(
        problem
        for service in announced.services
        if service.name in in_force
        for problem in compare(in_force[service.name], announced, service.name)
    )
    if problems and not tolerant:
        return Incompatible(problems)
    return Accepted(compiled.policies, problems)
