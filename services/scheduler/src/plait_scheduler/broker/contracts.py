"""The contracts in force, as the broker holds them."""

from collections.abc import Iterable, Sequence

import grpc

from plait.v1 import contract_service_pb2 as pb
from plait.v1 import contract_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.channel import CALL_SECONDS
from plait_scheduler.broker.retry import bounded
from plait_scheduler.descriptors.contract_reader import ContractReadError, read_contract
from plait_scheduler.domain.contract import Contract
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.domain.policy_compiler import compile_contract


class Contracts:
    """Reads what was announced before. Errors are grpc.aio.AioRpcError."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: pb_grpc.ContractServiceAsyncStub = pb_grpc.ContractServiceStub(channel)

    async def in_force(self, service: str) -> Contract | None:
        """The contract of a service; None where there is none. Raises ContractReadError as well."""
        response = await self._get(service)
        if response is None:
            return None
        return read_contract(response.descriptor_set, [service], response.digest)

    async def policies(self, service: str) -> Sequence[MethodPolicy]:
        """What is in force for a service; nothing where there is no contract, or one of a later
        version of this program.
        """
        try:
            contract = await self.in_force(service)
        except ContractReadError:
            return ()
        return compile_contract(contract).policies if contract is not None else ()

    async def policies_of(self, methods: Iterable[str]) -> dict[str, MethodPolicy]:
        """The same, by method; those of which no contract says anything are left out."""
        wanted = set(methods)
        services = sorted({method.strip("/").partition("/")[0] for method in wanted})
        found = [each for service in services for each in await self.policies(service)]
        return {each.method: each for each in found if each.method in wanted}

    async def services(self) -> Sequence[str]:
        """Full names of all services that have a contract in force."""
        found: list[str] = []
        token = ""
        while True:
            request = pb.ListContractsRequest(page_token=token)
            response = pb.ListContractsResponse()
            async for attempt in bounded():
                with attempt:
                    response = await self._stub.ListContracts(request, timeout=CALL_SECONDS)
            found += [each.service for each in response.contracts]
            token = response.next_page_token
            if not token:
                return found

    async def _get(self, service: str) -> pb.GetContractResponse | None:
        request = pb.GetContractRequest(service=service)
        try:
            async for attempt in bounded():
                with attempt:
                    return await self._stub.GetContract(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        return None
