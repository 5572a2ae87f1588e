"""Standing by: what a scheduler does while another one, started later, observes the broker."""

import asyncio
from dataclasses import dataclass

import grpc
import structlog
from grpc_health.v1 import health_pb2

from plait_scheduler.broker.key_value import KeyValue

# Who observes, or is about to: its address as text. Written before the stream is opened, so that
# whoever loses the stream by that finds out to whom.
CLAIM_KEY = "scheduler/observer"
# How often the other one is asked how it is, in seconds, and how long the answer may take.
ASK_SECONDS = 1.0
ANSWER_SECONDS = 1.0
# So many times without a good answer in a row, and it is gone. A restart takes less.
MISSES_MAX = 3

_CHECK = "/grpc.health.v1.Health/Check"


@dataclass(frozen=True, slots=True)
class StandbyConfig:
    """How patient it is."""

    ask_seconds: float = ASK_SECONDS
    misses_max: int = MISSES_MAX

    def validate(self) -> None:
        """Raises ValueError."""
        if self.ask_seconds <= 0 or self.misses_max < 1:
            raise ValueError("standing by needs a pause and at least one miss")


class Standby:
    """Finds out whether another scheduler lives. Two that displaced one another would never end."""

    def __init__(self, config: StandbyConfig, key_value: KeyValue) -> None:
        config.validate()
        self._config = config
        self._key_value = key_value
        self._log = structlog.get_logger("standby")

    async def claim(self, own_address: str) -> None:
        """Says that the scheduler at this address observes from now on. Raises AioRpcError."""
        await self._key_value.put(CLAIM_KEY, own_address.encode())

    async def until_gone(self, own_address: str) -> None:
        """Returns when no scheduler but this one has claimed the broker's stream."""
        misses = 0
        told = False
        while misses < self._config.misses_max:
            other = await self._other(own_address)
            if other is None:
                return
            if not told:
                self._log.warning("standing by", other=other)
                told = True
            misses = 0 if await _serves(other) else misses + 1
            await asyncio.sleep(self._config.ask_seconds)

    async def _other(self, own_address: str) -> str | None:
        """The address of the other one; None where there is none, or no broker to ask."""
        try:
            entry = await self._key_value.get(CLAIM_KEY)
        except grpc.aio.AioRpcError:
            return None
        other = entry.value.decode() if entry else own_address
        return other if other != own_address else None


async def _serves(address: str) -> bool:
    """Whether a scheduler at the address observes the broker."""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            _CHECK,
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=ANSWER_SECONDS)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
