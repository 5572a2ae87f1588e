"""Where direct calls go: a channel of gRPC's own for each service, which asks the scheduler for its
workers (xDS)."""

import asyncio
import json
import os
import time
from dataclasses import dataclass
from typing import Final

import grpc

from plait import _wire
from plait.control.v1 import key_value_service_pb2, key_value_service_pb2_grpc
from plait.v1 import contract_service_pb2, contract_service_pb2_grpc

# Where the scheduler says where it listens.
ADDRESS_KEY: Final = "scheduler/address"
# While calls are made, the scheduler's address is looked up so often: another one may have taken
# over, and channels ask the one that they were opened with.
LOOK_S: Final = 5.0
# Calls under way on a channel that is replaced get so long.
REPLACED_GRACE_S: Final = 300.0
# A look-up beside the calls, which go on without it.
_LOOK_TIMEOUT_S: Final = 5.0
# Of a method that the broker does not know.
_TIMEOUT_MS: Final = 60_000

# C-core reads a bootstrap from the environment, for the whole process and once. A program may have
# one of its own there, and several clients; so it is an argument of the channel. The name says that
# it is for tests; it has been the same since 2020, and the tests of this SDK hold it to that.
_BOOTSTRAP: Final = "grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config"
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    # One layer retries, and it is not the library. Left on, it would also take away what says that
    # a call is a retry.
    ("grpc.enable_retries", 0),
    # A worker that was restarted is found again at once.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 3000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class Callee:
    """A method that can be called."""

    channel: grpc.aio.Channel
    # The longest that a call may take, by the policy.
    timeout_ms: int


class Callees:
    """The channels of one client, opened when they are first needed."""

    def __init__(self, broker: grpc.aio.Channel) -> None:
        self._keys = key_value_service_pb2_grpc.KeyValueServiceStub(broker)
        self._contracts = contract_service_pb2_grpc.ContractServiceStub(broker)
        self._address: str | None = None
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._timeouts: dict[str, int] = {}
        # Replaced ones, whose last calls are waited for.
        self._replaced: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    async def find(self, path: str, seconds: float) -> Callee:
        """The callee of "/package.Service/Method". Waits for the broker within so many seconds
        the first time. Raises AioRpcError: UNAVAILABLE where no scheduler runs.
        """
        if self._address is None:
            self._use(await self._ask(seconds))
        elif time.monotonic() - self._looked_at > LOOK_S and self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="plait-scheduler-address")
        if path not in self._timeouts:
            await self._resolve([path], seconds)
        service = path.lstrip("/").rpartition("/")[0]
        channel = self._channels.get(service)
        if channel is None:
            assert self._address is not None
            channel = self._channels[service] = _open(service, self._address)
        return Callee(channel, self._timeouts[path])

    async def close(self) -> None:
        """Ends everything; calls under way get CANCELLED."""
        channels = [*self._channels.values(), *self._replaced.values()]
        tasks = [*self._replaced]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.gather(*(each.close() for each in channels))
        self._channels = {}

    def _use(self, address: str) -> None:
        self._looked_at = time.monotonic()
        if address == self._address:
            return
        self._address = address
        replaced, self._channels = self._channels, {}
        for channel in replaced.values():
            task = asyncio.create_task(channel.close(REPLACED_GRACE_S), name="plait-replaced")
            self._replaced[task] = channel
            task.add_done_callback(self._replaced.pop)

    async def _look(self) -> None:
        try:
            self._use(await self._ask(_LOOK_TIMEOUT_S))
            # Another contract may be in force by now.
            await self._resolve(sorted(self._timeouts), _LOOK_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            # What is known serves on, and the next call looks again a while later.
            self._looked_at = time.monotonic()
        finally:
            self._looking = None

    async def _ask(self, seconds: float) -> str:
        request = key_value_service_pb2.GetEntryRequest(key=ADDRESS_KEY)
        answer = await self._keys.GetEntry(request, timeout=seconds, wait_for_ready=True)
        if not answer.HasField("entry"):
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE,
                grpc.aio.Metadata(),
                grpc.aio.Metadata(),
                details="no scheduler runs, which knows the workers",
            )
        return answer.entry.value.decode()

    async def _resolve(self, paths: list[str], seconds: float) -> None:
        request = contract_service_pb2.ResolveMethodsRequest(methods=paths)
        answer = await self._contracts.ResolveMethods(request, timeout=seconds, wait_for_ready=True)
        told = {
            each.method: min(each.attempt_timeout.ToMilliseconds(), each.deadline.ToMilliseconds())
            for each in answer.methods
        }
        self._timeouts |= {path: told.get(path, _TIMEOUT_MS) for path in paths}


def _open(service: str, scheduler: str) -> grpc.aio.Channel:
    bootstrap = {
        "xds_servers": [
            {
                "server_uri": scheduler,
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {
            "id": f"{_wire.CLIENT} {os.getpid()}",
            "locality": {"region": "plait", "zone": "mesh"},
        },
    }
    options = (*_OPTIONS, (_BOOTSTRAP, json.dumps(bootstrap)))
    return grpc.aio.insecure_channel(f"xds:///{service}", options=options)
