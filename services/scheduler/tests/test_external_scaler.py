"""KEDA's external scaler, asked by a client whose stub is made from KEDA's own words."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from plait.control.v1 import control_service_pb2 as control_pb
from services.scheduler.tests.contracts import SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler

SCALER = "externalscaler.ExternalScaler"
QUEUE = "orders"
WORKER = "w1"
TRIGGER = {"queues": f"{QUEUE}, unknown", "minReplicaCount": "0", "maxReplicaCount": "2"}
# As KEDA's users copy it into their own repositories.
PROTO = """
syntax = "proto3";
package externalscaler;
option go_package = ".;externalscaler";
service ExternalScaler {
    rpc IsActive(ScaledObjectRef) returns (IsActiveResponse) {}
    rpc StreamIsActive(ScaledObjectRef) returns (stream IsActiveResponse) {}
    rpc GetMetricSpec(ScaledObjectRef) returns (GetMetricSpecResponse) {}
    rpc GetMetrics(GetMetricsRequest) returns (GetMetricsResponse) {}
}
message ScaledObjectRef {
    string name = 1;
    string namespace = 2;
    map<string, string> scalerMetadata = 3;
}
message IsActiveResponse { bool result = 1; }
message GetMetricSpecResponse { repeated MetricSpec metricSpecs = 1; }
message MetricSpec {
    string metricName = 1;
    int64 targetSize = 2 [deprecated=true];
    double targetSizeFloat = 3;
}
message GetMetricsRequest {
    ScaledObjectRef scaledObjectRef = 1;
    string metricName = 2;
}
message GetMetricsResponse { repeated MetricValue metricValues = 1; }
message MetricValue {
    string metricName = 1;
    int64 metricValue = 2 [deprecated=true];
    double metricValueFloat = 3;
}
"""

T = TypeVar("T")


class Keda:
    """A client of the scheduler's, as KEDA's operator is one."""

    def __init__(self, channel: grpc.aio.Channel, classes: dict[str, Any]) -> None:
        self._channel = channel
        self._classes = classes

    def ref(self, **trigger: str) -> Any:
        trigger = trigger or TRIGGER
        return self._classes["ScaledObjectRef"](
            name="orders", namespace="shop", scalerMetadata=trigger
        )

    async def is_active(self, ref: Any) -> bool:
        return bool((await self._call("IsActive", "IsActiveResponse", ref)).result)

    async def spec(self, ref: Any) -> Any:
        (spec,) = (await self._call("GetMetricSpec", "GetMetricSpecResponse", ref)).metricSpecs
        return spec

    async def value(self, ref: Any) -> int:
        request = self._classes["GetMetricsRequest"](
            scaledObjectRef=ref, metricName="plait-processes"
        )
        response = await self._call("GetMetrics", "GetMetricsResponse", request)
        (value,) = response.metricValues
        assert value.metricName == "plait-processes"
        assert value.metricValueFloat == value.metricValue
        return int(value.metricValue)

    def stream(self, ref: Any) -> Any:
        return self._channel.unary_stream(
            f"/{SCALER}/StreamIsActive",
            request_serializer=type(ref).SerializeToString,
            response_deserializer=self._classes["IsActiveResponse"].FromString,
        )(ref, timeout=40)

    async def _call(self, method: str, response: str, request: Any) -> Any:
        return await self._channel.unary_unary(
            f"/{SCALER}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=self._classes[response].FromString,
        )(request, timeout=20)


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("keda")
    (folder / "externalscaler.proto").write_text(PROTO)
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"-o{folder}/set"]
    subprocess.run([*command, "externalscaler.proto"], check=True)
    # A pool of its own: this process has the server's messages of the same names.
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString((folder / "set").read_bytes())
    pool.AddSerializedFile(files.file[0].SerializeToString())
    names = [message.name for message in files.file[0].message_type]
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"externalscaler.{name}"))
        for name in names
    }


@pytest.fixture
async def keda(
    broker: FakeBroker, scheduler: RunningScheduler, classes: dict[str, Any]
) -> AsyncIterator[Keda]:
    await broker.announce(orders_set(f'queue: "{QUEUE}"'), [SERVICE])
    async with await scheduler.channel() as channel:
        yield Keda(channel, classes)


def queue(ready: int = 0, **more: Any) -> control_pb.QueueFigures:
    return control_pb.QueueFigures(queue=QUEUE, ready=ready, **more)


def full() -> control_pb.WorkerFigures:
    return control_pb.WorkerFigures(
        worker=WORKER, slots=10, window=20, in_flight=20, succeeded=10, busy_ms=10_000
    )


async def with_figures(
    call: Awaitable[T],
    broker: FakeBroker,
    *queues: control_pb.QueueFigures,
    workers: tuple[control_pb.WorkerFigures, ...] = (),
) -> T:
    """What a call comes to while figures come."""
    running = asyncio.ensure_future(call)
    while not running.done():
        broker.figures(*workers, queues=queues)
        await asyncio.wait([running], timeout=0.02)
    return await running


async def wanted(
    keda: Keda, broker: FakeBroker, expected: int, *workers: control_pb.WorkerFigures
) -> None:
    """Returns when so many are wanted."""
    async with asyncio.timeout(20):
        while (
            await with_figures(keda.value(keda.ref()), broker, queue(500), workers=workers)
        ) != expected:
            pass


async def test_nobody_is_wanted_where_there_is_nothing_to_do(keda: Keda, broker: FakeBroker):
    assert not await with_figures(keda.is_active(keda.ref()), broker, queue())
    assert await with_figures(keda.value(keda.ref()), broker, queue()) == 0


async def test_the_backlog_brings_processes_up_to_the_most(keda: Keda, broker: FakeBroker):
    await wanted(keda, broker, 1)
    assert await with_figures(keda.is_active(keda.ref()), broker, queue(500))
    broker.attach(WORKER, 10, (f"/{SERVICE}/Place",))
    await wanted(keda, broker, 2, full())
    # And no further, however often it is asked.
    for _ in range(20):
        value = keda.value(keda.ref())
        assert await with_figures(value, broker, queue(500), workers=(full(),)) == 2


async def test_a_paused_queue_wants_nobody(keda: Keda, broker: FakeBroker):
    paused = queue(500, paused=True)
    assert await with_figures(keda.value(keda.ref()), broker, paused) == 0


async def test_what_runs_is_active(keda: Keda, broker: FakeBroker):
    assert await with_figures(keda.is_active(keda.ref()), broker, queue(running=1))


async def test_a_stream_tells_changes(keda: Keda, broker: FakeBroker):
    stream = keda.stream(keda.ref())
    for ready in (0, 1, 0):
        told = await with_figures(stream.read(), broker, queue(ready))
        assert told.result is bool(ready)
    stream.cancel()


async def test_the_metric_is_the_number_itself(keda: Keda):
    spec = await keda.spec(keda.ref())
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("plait-processes", 1, 1.0)


@pytest.mark.parametrize(
    ("trigger", "why"),
    [
        ({"queues": " , "}, "names the queues"),
        ({"minReplicaCount": "1"}, "names the queues"),
        ({"queues": "q", "waitMs": "soon"}, "is a number"),
        ({"queues": "q", "waitMs": "0"}, "above 0"),
        ({"queues": "q", "minReplicaCount": "3", "maxReplicaCount": "2"}, "no number of processes"),
    ],
)
async def test_a_trigger_that_makes_no_sense_is_refused(
    keda: Keda, trigger: dict[str, str], why: str
):
    for ask in (keda.spec, keda.is_active, keda.value):
        with pytest.raises(grpc.aio.AioRpcError, match=why) as failed:
            await ask(keda.ref(**trigger))
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_one_that_does_not_lead_does_not_say(keda: Keda, broker: FakeBroker):
    stream = keda.stream(keda.ref())
    assert not (await with_figures(stream.read(), broker, queue())).result
    broker.depose()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stream.read()
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await keda.value(keda.ref())
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
