"""The policies in force, read once and remembered."""

from plait_scheduler.broker.contracts import Contracts
from plait_scheduler.domain.policy import MethodPolicy


class PolicyBook:
    """Errors are grpc.aio.AioRpcError."""

    def __init__(self, contracts: Contracts) -> None:
        self._contracts = contracts
        self._services: dict[str, dict[str, MethodPolicy]] = {}

    def forget(self) -> None:
        """A contract may have changed."""
        self._services = {}

    async def of(self, method: str) -> MethodPolicy | None:
        """The policy of a method, "/package.Service/Method"; None: none is in force."""
        service = method.strip("/").partition("/")[0]
        if service not in self._services:
            policies = await self._contracts.policies(service)
            self._services[service] = {policy.method: policy for policy in policies}
        return self._services[service].get(method)
