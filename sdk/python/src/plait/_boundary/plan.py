"""A contract test from its options to its reports."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import MethodDescriptor

from plait._boundary.cases import DEFAULT_LIMIT, Case, boundary_cases, random_cases
from plait._boundary.check import DEFAULT_DEADLINE_S, Check, Report, Wanted
from plait._boundary.door import Door, NothingToTest, serving
from plait._boundary.mesh import Sender, WorkerOf
from plait._descriptors import pool_of

if TYPE_CHECKING:
    from plait.v1 import contract_service_pb2

DEFAULT_RANDOM: Final = 50
"""Random cases of a method, where a seed is given."""


@dataclass(frozen=True)
class Plan:
    """What is tested."""

    services: Sequence[str] = ()
    """Full names; none: all that have a contract, or those of the methods."""
    methods: Sequence[str] = ()
    """ "package.Service/Method"; none: all of the services."""
    cases: Sequence[str] = ()
    """Names of cases; none: all."""
    workers: Sequence[str] = ()
    """Names or ids of workers; none: all that are attached."""
    ignore: Sequence[str] = ()
    """Fields of responses that may differ; "?" for unknown fields."""
    seed: int | None = None
    """Of random cases; None: there are none."""
    count: int = DEFAULT_RANDOM
    """Random cases of each method."""
    deadline: float = DEFAULT_DEADLINE_S
    """Seconds that each task has."""
    allow_uncovered: bool = False
    """Whether a worker may go without having answered a case."""


@dataclass(frozen=True)
class Subject:
    """A method to test, and with what."""

    descriptor: MethodDescriptor
    cases: list[Case]

    @property
    def name(self) -> str:
        """ "package.Service/Method"."""
        return f"{self.descriptor.containing_service.full_name}/{self.descriptor.name}"


Contract = tuple[bytes, Sequence[str]]
"""A serialized FileDescriptorSet, and which of its services are meant."""


async def in_force(door: Door, plan: Plan) -> AsyncIterator[Contract]:
    """The contracts that the mesh has."""
    named = {*plan.services, *(each.rpartition("/")[0] for each in plan.methods)}
    for service in sorted(named) or await door.services():
        yield await door.contract(service), [service]


def subjects_of(
    contracts: Sequence[Contract], plan: Plan, limit: int = DEFAULT_LIMIT
) -> list[Subject]:
    """The methods with their cases; those that stream are left out. limit: of a request, in bytes.

    Raises NothingToTest.
    """
    found: list[Subject] = []
    for contract, services in contracts:
        pool = pool_of(contract)
        for service in services:
            for method in pool.FindServiceByName(service).methods:
                wanted = not plan.methods or f"{service}/{method.name}" in plan.methods
                if wanted and not (method.client_streaming or method.server_streaming):
                    found.append(Subject(method, _cases(method, plan, limit)))
    if missing := set(plan.methods) - {each.name for each in found}:
        missed = ", ".join(sorted(missing))
        raise NothingToTest(f"no contract declares {missed} without streams")
    if not found:
        raise NothingToTest("there is no method to test; see `plait contract list`")
    if not any(each.cases for each in found):
        raise NothingToTest(f'no case has the name "{plan.cases[0]}"; --list shows them')
    return [each for each in found if each.cases]


def _cases(method: MethodDescriptor, plan: Plan, limit: int) -> list[Case]:
    found = boundary_cases(method.input_type, limit)
    if plan.seed is not None:
        found += random_cases(method.input_type, plan.seed, plan.count)
    return [each for each in found if not plan.cases or each.name in plan.cases]


class Run:
    """Methods, as the mesh has them now, and the workers that serve them."""

    def __init__(self, door: Door, plan: Plan, subjects: Sequence[Subject]) -> None:
        self._door = door
        self._plan = plan
        self._subjects = subjects
        self._infos: dict[str, contract_service_pb2.MethodInfo] = {}

    async def prepare(self) -> list[str]:
        """Asks for what is in force. Answers the methods that declare no idempotence: neither a
        key nor a level."""
        paths = [f"/{each.name}" for each in self._subjects]
        self._infos = await self._door.methods(paths)
        return [each.name for each in self._subjects if not self._is_idempotent(each)]

    async def reports(self) -> list[Report]:
        """Tests one method after the other."""
        plan = self._plan
        attached = await self._door.workers(self._infos.values())
        checks: list[Check] = []
        for subject in self._subjects:
            path = f"/{subject.name}"
            workers = serving(attached, path)
            sender = Sender(self._door.tasks, self._infos[path], workers, plan.deadline)
            response = message_factory.GetMessageClass(subject.descriptor.output_type)
            wanted = Wanted(response, plan.ignore, plan.allow_uncovered)
            chosen = [each for each in workers if _is_chosen(each, plan.workers)]
            checks.append(Check(sender, subject.name, subject.cases, chosen, wanted))
        gone: set[str] = set()
        for check in checks:
            await check.answers(gone)
        stuck: set[str] = set()
        for check in checks:
            await check.deadlines(stuck)
        return [check.report for check in checks]

    def _is_idempotent(self, subject: Subject) -> bool:
        level = subject.descriptor.GetOptions().idempotency_level
        unknown = descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN
        return level != unknown or self._infos[f"/{subject.name}"].HasField("idempotency_key")


async def run_plan(door: Door, plan: Plan) -> list[Report]:
    """All of it, by the contracts in force and without a question."""
    contracts = [each async for each in in_force(door, plan)]
    subjects = subjects_of(contracts, plan, await door.payload_bytes_max())
    run = Run(door, plan, subjects)
    await run.prepare()
    return await run.reports()


def _is_chosen(worker: WorkerOf, named: Sequence[str]) -> bool:
    own = {worker.id, worker.label, worker.label.partition(" ")[0]}
    return not named or not own.isdisjoint(named)
