"""KEDA's external scaler: the number of processes that a worker needs, for Kubernetes to have."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn, Protocol

import grpc

from plait_keda import external_scaler_pb2 as pb
from plait_keda import external_scaler_pb2_grpc as pb_grpc
from plait_scheduler.domain.scaling import ScalingConfig
from plait_scheduler.servicers.doors import Doors

# One for one replica, so that the autoscaler's division gives the number that was decided on.
METRIC = "plait-processes"
STREAMS_MAX = 100
_QUEUES = "queues"
# What a trigger may say beside its queues, all numbers.
_NUMBERS = {
    "minReplicaCount": "least",
    "maxReplicaCount": "most",
    "waitMs": "wait_ms",
    "settleMs": "settle_ms",
    "calmMs": "calm_ms",
}
# A pod takes its time to start.
_DEFAULTS = {"least": 0, "most": 100, "settle_ms": 30_000}
_TEXT_MAX = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class Scaling(Protocol):
    """Who decides."""

    async def ask(
        self, key: str, config: ScalingConfig, queues: frozenset[str]
    ) -> tuple[int, bool] | None:
        """How many processes are wanted, and whether there is anything to do; None: not known."""

    async def decided(self) -> None:
        """Returns when that may have changed."""


class ExternalScalerServicer(pb_grpc.ExternalScalerServicer):
    """Asks the scheduler, which decides for workers elsewhere as for its own."""

    def __init__(self, scaling: Scaling, doors: Doors) -> None:
        self._scaling = scaling
        self._doors = doors
        self._streams = 0

    async def IsActive(self, request: pb.ScaledObjectRef, context: Context) -> pb.IsActiveResponse:
        """Whether tasks wait or run."""
        _, active = await self._ask(request, context)
        return pb.IsActiveResponse(result=active)

    async def StreamIsActive(
        self, request: pb.ScaledObjectRef, context: Context
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """At once, and then whenever it changes, until this scheduler does not lead."""
        if self._streams >= STREAMS_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{STREAMS_MAX} streams are open already"
            )
        self._streams += 1
        told: bool | None = None
        try:
            while True:
                _, active = await self._ask(request, context)
                if active is not told:
                    told = active
                    yield pb.IsActiveResponse(result=active)
                await self._scaling.decided()
        finally:
            self._streams -= 1

    async def GetMetricSpec(
        self, request: pb.ScaledObjectRef, context: Context
    ) -> pb.GetMetricSpecResponse:
        """The same for everybody; what the trigger says is checked."""
        await _config(request.scalerMetadata, context)
        spec = pb.MetricSpec(metricName=METRIC, targetSize=1, targetSizeFloat=1.0)
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(
        self, request: pb.GetMetricsRequest, context: Context
    ) -> pb.GetMetricsResponse:
        """How many processes there are to be."""
        wanted, _ = await self._ask(request.scaledObjectRef, context)
        value = pb.MetricValue(
            metricName=request.metricName or METRIC,
            metricValue=wanted,
            metricValueFloat=float(wanted),
        )
        return pb.GetMetricsResponse(metricValues=[value])

    async def _ask(self, who: pb.ScaledObjectRef, context: Context) -> tuple[int, bool]:
        await self._doors.check(context)
        config, queues = await _config(who.scalerMetadata, context)
        found = await self._scaling.ask(f"{who.namespace}/{who.name}", config, queues)
        if found is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "there are no figures yet")
            raise AssertionError
        return found


async def _config(
    metadata: Mapping[str, str], context: Context
) -> tuple[ScalingConfig, frozenset[str]]:
    """What a trigger says. Aborts with INVALID_ARGUMENT."""
    names = (name.strip() for name in metadata.get(_QUEUES, "").split(","))
    queues = frozenset(name for name in names if name)
    if not queues or len(metadata[_QUEUES]) > _TEXT_MAX:
        await _refuse(context, f'"{_QUEUES}" names the queues of the worker, with commas')
    numbers = dict(_DEFAULTS)
    for key, field in _NUMBERS.items():
        text = metadata.get(key)
        if text is None:
            continue
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            await _refuse(context, f'"{key}" is a number, not "{text[:_TEXT_MAX]}"')
        numbers[field] = int(text)
    config = ScalingConfig(**numbers)
    try:
        config.validate()
    except ValueError as error:
        await _refuse(context, str(error))
    return config, queues


async def _refuse(context: Context, why: str) -> NoReturn:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)
    raise AssertionError(why)
