"""What a contract test asks a mesh before it sends anything."""

import asyncio
import secrets
import time
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
# How long the scheduler may know other workers than the broker.
_SETTLE_S: Final = 10.0
_PAUSE_S: Final = 0.05


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

    async def workers(
        self, infos: Collection[contract_service_pb2.MethodInfo]
    ) -> list[directory_service_pb2.Worker]:
        """All that are attached: as many as the broker counts, of which the scheduler hears a
        moment later."""
        address = await self._scheduler()
        end = time.monotonic() + _SETTLE_S
        async with _wire.open_channel(address) as channel:
            while True:
                found = await self._listed(channel)
                if time.monotonic() > end or await self._is_complete(infos, found):
                    return found
                await asyncio.sleep(_PAUSE_S)

    async def _scheduler(self) -> str:
        space = key_value_service_pb2_grpc.KeyValueServiceStub(self._channel)
        asked = key_value_service_pb2.GetEntryRequest(key=_SCHEDULER)
        answer = await space.GetEntry(asked, timeout=self._timeout)
        if not answer.HasField("entry"):
            raise NothingToTest("no scheduler runs, which knows the workers")
        return answer.entry.value.decode()

    async def _listed(self, channel: grpc.aio.Channel) -> list[directory_service_pb2.Worker]:
        directory = directory_service_pb2_grpc.DirectoryServiceStub(channel)
        found: list[directory_service_pb2.Worker] = []
        token = ""
        while True:
            request = directory_service_pb2.ListWorkersRequest(page_size=1000, page_token=token)
            page = await directory.ListWorkers(request, timeout=self._timeout)
            found += page.workers
            token = page.next_page_token
            if not token:
                return found

    async def _is_complete(
        self,
        infos: Collection[contract_service_pb2.MethodInfo],
        found: Collection[directory_service_pb2.Worker],
    ) -> bool:
        for name in {each.queue for each in infos}:
            request = task_service_pb2.GetQueueRequest(name=name)
            queue = (await self.tasks.GetQueue(request, timeout=self._timeout)).queue
            methods = set(queue.methods)
            known = sum(not methods.isdisjoint(each.methods) for each in found)
            if known != queue.worker_count:
                return False
        return True


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
