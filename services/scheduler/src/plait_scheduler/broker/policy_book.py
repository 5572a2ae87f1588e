"""The policies in force, read once and remembered."""

import structlog

from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.descriptors.contract_reader import ContractReadError
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.domain.policy_compiler import compile_contract


class PolicyBook:
    """Errors are grpc.aio.AioRpcError."""

    def __init__(self, contracts: Contracts) -> None:
        self._contracts = contracts
        self._services: dict[str, dict[str, MethodPolicy]] = {}
        self._log = structlog.get_logger("policies")

    def forget(self) -> None:
        """A contract may have changed."""
        self._services = {}

    async def of(self, method: str) -> MethodPolicy | None:
        """The policy of a method, "/package.Service/Method"; None: none is in force."""
        service = method.strip("/").partition("/")[0]
        if service not in self._services:
            self._services[service] = await self._read(service)
        return self._services[service].get(method)

    async def _read(self, service: str) -> dict[str, MethodPolicy]:
        try:
            contract = await self._contracts.in_force(service)
        except ContractReadError as error:
            # A later version of this program has accepted it.
            self._log.warning("contract.unreadable", service=service, error=str(error))
            return {}
        if contract is None:
            return {}
        return {policy.method: policy for policy in compile_contract(contract).policies}
