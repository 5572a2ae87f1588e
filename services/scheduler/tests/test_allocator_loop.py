"""Windows reach the broker, and only those that change."""

import asyncio

import grpc

from plait.control.v1 import control_service_pb2 as pb
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler


def worker(name: str, window: int, succeeded: int = 1000, busy_ms: int = 2000) -> pb.WorkerFigures:
    return pb.WorkerFigures(
        worker=name,
        slots=8,
        window=window,
        in_flight=8,
        succeeded=succeeded,
        busy_ms=busy_ms,
    )


async def test_windows_are_set_when_they_change(broker: FakeBroker, scheduler: RunningScheduler):
    broker.attach("a", slots=8)
    broker.attach("b", slots=8)
    broker.figures(worker("a", window=8), worker("b", window=16))
    async with asyncio.timeout(20):
        assert await broker.state.windows.get() == {"a": 16}
        # Nothing to do for these; the next command is of the figures after them.
        broker.figures(worker("a", window=16), worker("b", window=16))
        broker.figures(worker("a", window=16), worker("b", window=9))
        assert await broker.state.windows.get() == {"b": 16}


async def test_a_command_that_failed_is_given_again(
    broker: FakeBroker, scheduler: RunningScheduler
):
    broker.failures["SetWindows"] = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
    broker.attach("a", slots=8)
    async with asyncio.timeout(20):
        while broker.state.windows.empty():
            broker.figures(worker("a", window=8))
            await asyncio.sleep(0)
    assert broker.failures["SetWindows"] == []
    assert broker.state.windows.get_nowait() == {"a": 16}


async def test_a_sick_worker_is_compared_with_those_that_serve_the_same(
    broker: FakeBroker, scheduler: RunningScheduler
):
    """Alone it would keep half of its slots."""
    broker.attach("sick", slots=8)
    broker.attach("well", slots=8)
    async with asyncio.timeout(30):
        while broker.state.windows.empty() or broker.state.windows.get_nowait()["sick"] >= 4:
            for took in (20, 400):
                for _ in range(12):
                    broker.figures(
                        worker("sick", window=16, succeeded=100, busy_ms=100 * took),
                        worker("well", window=16, succeeded=100, busy_ms=2000),
                    )
            await asyncio.sleep(0)
