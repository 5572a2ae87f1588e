"""What a scheduler tells Prometheus, and what it does not answer."""

import asyncio
from typing import Any

import pytest

from plait.control.v1 import control_service_pb2 as control_pb
from plait_scheduler.metrics.door import CONNECTIONS_MAX, HEAD_BYTES_MAX
from services.scheduler.tests.contracts import SERVICE, orders_set
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler
from tests.support.metrics import Metrics, scrape
from tests.support.waiting import eventually

PLACE = f"/{SERVICE}/Place"
PATIENCE_S = 30
OPEN = 2
LISTEN: dict[str, Any] = {"metrics_listen": "127.0.0.1:0"}


async def ask(address: str, request: bytes) -> bytes:
    """All that the door says."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


async def test_a_leader_tells_what_it_decided(broker: FakeBroker):
    async with RunningScheduler(broker.address, **LISTEN) as scheduler:
        place = await scheduler.metrics()
        await broker.announce(orders_set("breaker: {min_calls: 5}"), [SERVICE])
        codes = [0] * 14 + [5, 0, 0]
        broker.figures(methods=[control_pb.MethodFigures(method=PLACE, fresh_outcomes=codes)])
        async with asyncio.timeout(PATIENCE_S):
            await broker.state.gates.get()

        async def told() -> Metrics:
            return await scrape(place)

        # The turn ends after the broker has taken the gates.
        def gates(found: Metrics) -> float:
            return found.total("plait_scheduler_decisions_total", loop="breaker", what="gates")

        found = await eventually(told, lambda found: gates(found) == 1, PATIENCE_S)
        standing = ("leads", "connected")
        assert [found.value(f"plait_scheduler_{name}") for name in standing] == [1, 1]
        assert found.value("plait_scheduler_epoch") > 0
        assert found.value("plait_scheduler_breaker_state", method=PLACE) == OPEN
        assert found.value("plait_scheduler_breaker_openings", method=PLACE) == 1
        decided = "plait_scheduler_decisions_total"
        assert found.value(decided, loop="registry", what="accepted") == 1
        assert found.value(decided, loop="breaker", what="open") == 1
        for loop in ("registry", "allocator", "breaker", "mesh", "scaling", "schedule"):
            errors = found.value("plait_scheduler_turn_errors_total", loop=loop)
            assert errors == 0, loop
        assert found.value("plait_scheduler_turn_seconds_count", loop="breaker") >= 1
        assert found.value("plait_scheduler_turn_seconds_sum", loop="breaker") > 0
        for state in ("active", "paused"):
            assert found.value("plait_schedules", state=state) == 0
        for outcome in ("submitted", "skipped", "missed", "refused"):
            assert found.value("plait_schedule_runs", outcome=outcome) == 0


async def test_one_that_stands_by_tells_no_breakers_and_no_schedules(broker: FakeBroker):
    async with RunningScheduler(broker.address) as first:
        await first.ready
        async with RunningScheduler(broker.address, **LISTEN) as second:
            found = await scrape(await second.metrics())
    assert found.value("plait_scheduler_leads") == 0
    assert found.value("plait_scheduler_epoch") == 0
    assert "plait_scheduler_breaker_state" not in found.samples
    assert "plait_schedules" not in found.samples


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics HTTP/1.1", b"200"),
        (b"GET /metrics?name[]=up HTTP/1.0", b"200"),
        (b"HEAD /metrics HTTP/1.1", b"200"),
        (b"POST /metrics HTTP/1.1", b"405"),
        (b"GET / HTTP/1.1", b"404"),
        (b"GET /metrics/x HTTP/1.1", b"404"),
        (b"\xff\x00", b"404"),
        (b"", b"404"),
    ],
)
async def test_only_metrics_are_told(broker: FakeBroker, request_line: bytes, status: bytes):
    async with RunningScheduler(broker.address, **LISTEN) as scheduler:
        place = await scheduler.metrics()
        answer = await ask(place, request_line + b"\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == status
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    assert length > 0
    assert len(body) == (0 if request_line.startswith(b"HEAD") else length)


async def answered(place: str, headers: bytes = b"") -> bool:
    """Whether who asks for metrics gets them. One that is closed while it speaks is reset."""
    try:
        answer = await ask(place, b"GET /metrics HTTP/1.1\r\n" + headers + b"\r\n")
    except ConnectionError:
        return False
    assert answer == b"" or answer.startswith(b"HTTP/1.1 200 OK")
    return answer != b""


async def test_who_says_too_much_or_opens_too_much_gets_no_answer(broker: FakeBroker):
    async with RunningScheduler(broker.address, **LISTEN) as scheduler:
        place = await scheduler.metrics()
        assert await answered(place, b"x: " + b"x" * (HEAD_BYTES_MAX // 2) + b"\r\n")
        assert not await answered(place, b"x: " + b"x" * 2 * HEAD_BYTES_MAX + b"\r\n")
        host, _, port = place.rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS_MAX)]
        assert not await answered(place)
        for _, writer in silent:
            writer.close()
        assert await eventually(lambda: answered(place), bool, PATIENCE_S)


async def test_without_an_address_nothing_is_told(broker: FakeBroker):
    async with RunningScheduler(broker.address) as scheduler:
        assert await scheduler.metrics() == ""


async def test_an_address_in_use_is_told(broker: FakeBroker):
    async with RunningScheduler(broker.address, **LISTEN) as first:
        taken = await first.metrics()
        with pytest.raises(ExceptionGroup) as raised:
            async with RunningScheduler(broker.address, metrics_listen=taken):
                await asyncio.Event().wait()
    (error,) = raised.value.exceptions
    assert isinstance(error, RuntimeError)
    assert taken in str(error)
