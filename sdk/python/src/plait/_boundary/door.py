"""What a contract test asks a mesh before it sends anything."""

import secrets
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final

import grpc

from plait import _wire
from plait._boundary.mesh import WorkerOf
from plait.control.v1 import (
    directory_service_pb2,
    directory_service_pb2_grpc,
    key_value_service_pb2,
    key_value_service_pb2_grpc,
)
from plait.v1 import (
    contract_service_pb2,
    contract_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
)

# Where the scheduler says where it listens.
_SCHEDULER: Final = "scheduler/address"


class NothingToTest(LookupError):
    """There is no such contract, method, case or worker; the text says which."""


class Door:
    """The services of one mesh."""

    def __init__(self, channel: grpc.aio.Channel, timeout: float) -> None:
        """timeout: seconds for each question."""
        self._channel = channel
        self._timeout = timeout
        self._contracts = contract_service_pb2_grpc.ContractServiceStub(channel)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)

    async def payload_bytes_max(self) -> int:
        """The largest request that the broker takes, as it tells whoever submits."""

        async def hello() -> AsyncIterator[task_service_pb2.SubmitStreamRequest]:
            said = task_service_pb2.SessionHello(
                session=secrets.token_bytes(16), client=_wire.CLIENT
            )
            yield task_service_pb2.SubmitStreamRequest(hello=said)

        call = self.tasks.SubmitStream(hello(), timeout=self._timeout)
        try:
            async for answer in call:
                return answer.welcome.payload_bytes_max
        finally:
            call.cancel()
        raise NothingToTest("the broker welcomes nobody")

    async def services(self) -> list[str]:
        """Those that have a contract."""
        found: list[str] = []
        token = ""
        while True:
            request = contract_service_pb2.ListContractsRequest(page_token=token)
            page = await self._contracts.ListContracts(request, timeout=self._timeout)
            found += [each.service for each in page.contracts]
            token = page.next_page_token
            if not token:
                return sorted(found)

    async def contract(self, service: str) -> bytes:
        """The descriptors that are in force."""
        request = contract_service_pb2.GetContractRequest(service=service)
        try:
            answer = await self._contracts.GetContract(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                raise NothingToTest(
                    f"no contract declares {service}; start its worker, or `plait contract push`"
                ) from error
            raise
        return answer.descriptor_set

    async def methods(self, paths: Collection[str]) -> dict[str, contract_service_pb2.MethodInfo]:
        """What is in force for methods, by path."""
        found: dict[str, contract_service_pb2.MethodInfo] = {}
        for path in paths:
            request = contract_service_pb2.ResolveMethodsRequest(methods=[path])
            answer = await self._contracts.ResolveMethods(request, timeout=self._timeout)
            if not answer.methods:
                raise NothingToTest(f"{path.lstrip('/')} is not known: start its worker")
            found[path] = answer.methods[0]
        return found

    async def workers(self) -> list[directory_service_pb2.Worker]:
        """All that are attached, as the scheduler knows."""
        space = key_value_service_pb2_grpc.KeyValueServiceStub(self._channel)
        asked = key_value_service_pb2.GetEntryRequest(key=_SCHEDULER)
        answer = await space.GetEntry(asked, timeout=self._timeout)
        if not answer.HasField("entry"):
            raise NothingToTest("no scheduler runs, which knows the workers")
        found: list[directory_service_pb2.Worker] = []
        token = ""
        async with _wire.open_channel(answer.entry.value.decode()) as channel:
            directory = directory_service_pb2_grpc.DirectoryServiceStub(channel)
            while True:
                request = directory_service_pb2.ListWorkersRequest(page_size=1000, page_token=token)
                page = await directory.ListWorkers(request, timeout=self._timeout)
                found += page.workers
                token = page.next_page_token
                if not token:
                    return found


def serving(found: Sequence[directory_service_pb2.Worker], path: str) -> list[WorkerOf]:
    """Those that serve a method, each with a label of its own."""
    found = [each for each in found if path in each.methods]
    names = [each.name for each in found]
    return [
        WorkerOf(
            each.worker,
            each.name if names.count(each.name) == 1 else f"{each.name} {each.worker}",
            each.client,
            max(1, each.slots),
        )
        for each in found
    ]
