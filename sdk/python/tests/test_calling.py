"""The attempts of a direct call against a worker's port: what is sent again, when, and what comes
of it."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import plait
from plait import _marks, _rules, _spans, errors
from plait._attempts import HEDGE_DELAY_MS_MIN
from plait._calling import Calling, pushback_of
from plait._guards import Guard, Guards, RefusedError
from plait._listener import Listener
from plait._rules import Rules
from plait.breaker import Config as BreakerConfig
from plait.limiter import Config as LimiterConfig
from plait.retry import Budget
from plait.v1 import options_pb2
from testing.v1 import echo_pb2, echo_pb2_grpc

SERVICE = "/testing.v1.EchoService"
DETAILS = "grpc-status-details-bin"
DOWN = grpc.StatusCode.UNAVAILABLE
Handler = Callable[[int, Any], Any]


@asynccontextmanager
async def worker(handler: Handler) -> AsyncIterator[tuple[Any, list[dict[str, Any]]]]:
    """A channel to a port whose Echo is this, with the number of the call; and what it saw."""
    seen: list[dict[str, Any]] = []

    async def echo(self: Any, request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata()))
        return await handler(len(seen), context)

    service: Any = type("Service", (echo_pb2_grpc.EchoServiceServicer,), {"Echo": echo})
    service.__abstractmethods__ = frozenset()

    def register(server: Any) -> None:
        echo_pb2_grpc.add_EchoServiceServicer_to_server(service(), server)

    listener = Listener("127.0.0.1:0", [register], 16)
    endpoint = await listener.start()
    try:
        options = (("grpc.enable_retries", 0),)
        async with grpc.aio.insecure_channel(endpoint, options=options) as channel:
            yield channel, seen
    finally:
        await listener.close()


def calling(channel: Any, rules: Rules, guard: Guard | None = None, seconds: float = 30) -> Any:
    """A call of Echo by these rules."""
    method = channel.unary_unary(
        f"{SERVICE}/Echo",
        echo_pb2.EchoRequest.SerializeToString,
        echo_pb2.EchoResponse.FromString,
    )

    def send(timeout: float, more: Any) -> Any:
        return method(echo_pb2.EchoRequest(), timeout=timeout, metadata=grpc.aio.Metadata(*more))

    guard = guard or Guard(f"{SERVICE}/Echo", rules, Budget())
    return Calling[Any](guard, rules, send, time.monotonic() + seconds, None)


def failing(times: int, *trailers: tuple[str, str | bytes], code: Any = DOWN) -> Handler:
    """Fails so often, then answers."""

    async def handler(number: int, context: Any) -> Any:
        if number <= times:
            await context.abort(code, f"failure {number}", trailers)
        return echo_pb2.EchoResponse(payload=str(number).encode())

    return handler


async def failed(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.run()
    return error.value


async def test_retries_say_which_attempt_they_are():
    async with worker(failing(2)) as (channel, seen):
        answer = await calling(channel, Rules()).run()
    assert answer.payload == b"3"
    assert [each.get("grpc-previous-rpc-attempts") for each in seen] == [None, "1", "2"]


async def test_attempts_after_the_first_are_events_of_the_call_s_span(
    monkeypatch: pytest.MonkeyPatch,
):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(_spans, "_tracer", provider.get_tracer("test"))
    span = _spans.CallSpan("testing.v1.EchoService/Echo")
    async with worker(failing(2)) as (channel, _):
        made = calling(channel, Rules())
        made._span = span
        await made.run()
    span.finished(grpc.StatusCode.OK, "")
    (ended,) = exporter.get_finished_spans()
    events = [(each.name, dict(each.attributes or {})) for each in ended.events]
    assert events == [("attempt", {"plait.attempt.number": number}) for number in (2, 3)]


async def test_the_last_status_is_the_call_s_byte_for_byte():
    info = status_pb2.Status(code=14, message="failure 3")
    info.details.add().Pack(Duration(seconds=7))
    raw = info.SerializeToString()
    async with worker(failing(9, (DETAILS, raw), ("x-why", "dust"))) as (channel, seen):
        error = await failed(calling(channel, Rules()))
    assert len(seen) == 3
    assert (error.code(), error.details()) == (DOWN, "failure 3")
    assert dict(error.trailing_metadata() or ()) == {DETAILS: raw, "x-why": "dust"}


@pytest.mark.parametrize(
    ("rules", "code", "attempts"),
    [
        (Rules(), grpc.StatusCode.INTERNAL, 1),
        (Rules(idempotent=True), grpc.StatusCode.INTERNAL, 3),
        (Rules(idempotent=True), grpc.StatusCode.NOT_FOUND, 1),
        (Rules(max_attempts=1), DOWN, 1),
        (Rules(never=frozenset({DOWN})), DOWN, 1),
        (Rules(), grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
    ],
)
async def test_what_is_sent_again(rules: Rules, code: Any, attempts: int):
    async with worker(failing(9, code=code)) as (channel, seen):
        assert (await failed(calling(channel, rules))).code() is code
    assert len(seen) == attempts


@pytest.mark.parametrize(("value", "attempts"), [("-1", 1), ("soon", 1), ("0", 3)])
async def test_a_worker_may_say_stop(value: str, attempts: int):
    async with worker(failing(9, ("grpc-retry-pushback-ms", value))) as (channel, seen):
        await failed(calling(channel, Rules()))
    assert len(seen) == attempts


async def test_the_longer_pushback_counts():
    async with worker(failing(9, ("grpc-retry-pushback-ms", "70"), retry_info(50))) as (channel, _):
        assert pushback_of(await failed(calling(channel, Rules(max_attempts=1)))) == 70
    async with worker(failing(9, ("grpc-retry-pushback-ms", "20"), retry_info(50))) as (channel, _):
        assert pushback_of(await failed(calling(channel, Rules(max_attempts=1)))) == 50


def retry_info(ms: int) -> tuple[str, bytes]:
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.RetryInfo(retry_delay=Duration(nanos=ms * 1_000_000)))
    return DETAILS, status_pb2.Status(code=14, details=[packed]).SerializeToString()


async def test_an_answer_that_had_begun_is_not_asked_for_again():
    async def handler(number: int, context: Any) -> Any:
        await context.send_initial_metadata((("x-begun", "1"),))
        await context.abort(DOWN, "late")

    async with worker(handler) as (channel, seen):
        await failed(calling(channel, Rules()))
    assert len(seen) == 1


async def test_nothing_is_sent_without_time():
    async with worker(failing(0)) as (channel, seen):
        error = await failed(calling(channel, Rules(), seconds=0.0005))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert seen == []


async def test_a_budget_is_one_for_a_service():
    guards = Guards()
    rules = Rules(breaker=None, budget_tokens=2)
    fail, echo = guards.of(f"{SERVICE}/Fail", rules), guards.of(f"{SERVICE}/Echo", rules)
    assert fail.budget is echo.budget
    assert guards.of("/other.v1.OtherService/Echo", rules).budget is not echo.budget
    async with worker(failing(9)) as (channel, seen):
        # Of two tokens more than one has to be left after a failure.
        await failed(calling(channel, rules, echo))
    assert len(seen) == 1
    assert not fail.budget.may_retry()


async def test_an_open_breaker_refuses_and_costs_nothing():
    rules = Rules(max_attempts=1, breaker=BreakerConfig(min_calls=2))
    budget = Budget()
    guard = Guard(f"{SERVICE}/Echo", rules, budget)
    async with worker(failing(9)) as (channel, seen):
        for _ in range(2):
            await failed(calling(channel, rules, guard))
        left = budget.tokens_milli
        mark = _marks.Mark()
        _marks.current.set(mark)
        error = await failed(calling(channel, rules, guard))
    assert len(seen) == 2
    assert budget.tokens_milli == left
    assert error.code() is DOWN
    assert errors.reason(error) == errors.Reason.BREAKER_OPEN
    assert errors.metadata(error) == {"method": f"{SERVICE}/Echo"}
    assert 4 < (errors.retry_after(error) or 0) <= 5
    assert mark.stop


async def test_a_breaker_that_opens_between_attempts_leaves_the_worker_s_word():
    rules = Rules(breaker=BreakerConfig(min_calls=2))
    async with worker(failing(9)) as (channel, seen):
        error = await failed(calling(channel, rules))
    assert len(seen) == 2
    assert error.details() == "failure 2"


async def test_those_who_wait_come_in_by_turns():
    guard = Guard("/s/m", Rules(limiter=LimiterConfig(initial=1, max=1, waiting_max=2)), Budget())
    end = time.monotonic() + 30
    first = await guard.enter(end)
    order: list[int] = []

    async def one(number: int) -> None:
        entry = await guard.enter(end)
        order.append(number)
        entry.ended(grpc.StatusCode.OK)

    waiting = [asyncio.ensure_future(one(number)) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RefusedError) as refused:
        await guard.enter(end)
    assert refused.value.error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert errors.metadata(refused.value.error) == {
        "method": "/s/m",
        "limit": "1",
        "waiting": "2",
    }
    assert guard.enter_now() is None
    first.ended(grpc.StatusCode.OK)
    await asyncio.gather(*waiting)
    assert order == [0, 1]
    last = guard.enter_now()
    assert last is not None


async def test_who_gives_up_waiting_leaves_no_gap():
    guard = Guard("/s/m", Rules(limiter=LimiterConfig(initial=1, max=1)), Budget())
    end = time.monotonic() + 30
    first = await guard.enter(end)
    with pytest.raises(RefusedError) as late:
        await guard.enter(time.monotonic() + 0.01)
    assert late.value.error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    cancelled = asyncio.ensure_future(guard.enter(end))
    admitted = asyncio.ensure_future(guard.enter(end))
    await asyncio.sleep(0)
    cancelled.cancel()
    # Its place is given up and not lost, also in the moment of its end.
    first.ended(grpc.StatusCode.OK)
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    (await admitted).ended(grpc.StatusCode.OK)
    assert guard.enter_now() is not None


async def test_a_cancelled_probe_gives_its_permit_back():
    rules = Rules(breaker=BreakerConfig(min_calls=1, open_ms=0, half_open_probes=1), limiter=None)
    guard = Guard("/s/m", rules, Budget())
    end = time.monotonic() + 30
    (await guard.enter(end)).ended(DOWN)
    probe = await guard.enter(end)
    with pytest.raises(RefusedError):
        await guard.enter(end)
    probe.ended(grpc.StatusCode.CANCELLED)
    (await guard.enter(end)).ended(grpc.StatusCode.OK)


async def test_a_hedge_wins_and_the_first_is_cancelled():
    cancelled = asyncio.Event()

    async def handler(number: int, context: Any) -> Any:
        # On a busy machine the hedge may arrive before the first attempt does.
        if "grpc-previous-rpc-attempts" not in dict(context.invocation_metadata()):
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
        return echo_pb2.EchoResponse(payload=b"hedge")

    rules = Rules(idempotent=True, hedge=True, hedge_delay_ms=5)
    async with worker(handler) as (channel, seen):
        answer = await calling(channel, rules).run()
        assert answer.payload == b"hedge"
        async with asyncio.timeout(20):
            await cancelled.wait()
    assert sorted(each.get("grpc-previous-rpc-attempts", "") for each in seen) == ["", "1"]


async def test_a_hedged_call_ends_with_the_last_failure_or_the_deadline():
    rules = Rules(idempotent=True, hedge=True, hedge_delay_ms=20_000)
    async with worker(failing(9)) as (channel, seen):
        error = await failed(calling(channel, rules))
        assert error.details() == "failure 2"
        assert len(seen) == 2

    async def for_ever(number: int, context: Any) -> Any:
        await asyncio.Event().wait()

    async with worker(for_ever) as (channel, seen):
        error = await failed(calling(channel, rules, seconds=0.3))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(seen) == 1


async def test_only_what_may_be_done_twice_is_hedged():
    assert HEDGE_DELAY_MS_MIN == 10
    gate = asyncio.Event()

    async def handler(number: int, context: Any) -> Any:
        await gate.wait()
        return echo_pb2.EchoResponse()

    async with worker(handler) as (channel, seen):
        for rules in (
            Rules(hedge=True, hedge_delay_ms=1),
            Rules(hedge=True, idempotent=True, hedge_delay_ms=1, max_attempts=1),
            # Too little is known of the method.
            Rules(hedge=True, idempotent=True),
        ):
            call = asyncio.ensure_future(calling(channel, rules).run())
            await asyncio.wait([call], timeout=0.1)
            gate.set()
            await call
            gate.clear()
    assert len(seen) == 3


async def test_cancelling_a_call_ends_its_wait_for_the_next_attempt():
    async with worker(failing(1, ("grpc-retry-pushback-ms", "20000"))) as (channel, seen):
        call = calling(channel, Rules())
        running = asyncio.ensure_future(call.run())
        async with asyncio.timeout(20):
            await call.sent.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
    assert len(seen) <= 1


@pytest.mark.parametrize("how", ["abort", "raise", "set", "status"])
@pytest.mark.parametrize("stopped", [True, False])
async def test_a_failure_of_what_is_called_is_not_tried_again_above(how: str, stopped: bool):
    async def handler(number: int, context: Any) -> Any:
        if stopped:
            _marks.stop_above()
        context.set_trailing_metadata((("x-own", "1"),))
        if how == "abort":
            await context.abort(DOWN, "below")
        if how == "status":
            await context.abort_with_status(
                rpc_status.to_status(status_pb2.Status(code=14, message="below"))
            )
        if how == "raise":
            raise RuntimeError("below")
        context.set_code(DOWN)
        return echo_pb2.EchoResponse()

    rules = Rules(idempotent=True)
    async with worker(handler) as (channel, seen):
        error = await failed(calling(channel, rules))
    assert len(seen) == (1 if stopped else 3)
    found = dict(error.trailing_metadata() or ())
    assert found.get("grpc-retry-pushback-ms") == ("-1" if stopped else None)
    assert ("x-own" in found) or how == "status"


async def test_what_is_not_to_be_tried_again_anyway_is_not_marked():
    async def handler(number: int, context: Any) -> Any:
        _marks.stop_above()
        if number == 1:
            return echo_pb2.EchoResponse()
        await context.abort(grpc.StatusCode.NOT_FOUND, "below")

    async with worker(handler) as (channel, _):
        call = calling(channel, Rules())
        await call.run()
        assert len(await call.call.trailing_metadata()) == 0
        assert len((await failed(calling(channel, Rules()))).trailing_metadata() or ()) == 0


def rules_of(method: str) -> Rules:
    return _rules.of_method(f"{SERVICE}/{method}")


def test_rules_are_those_of_the_contract():
    assert rules_of("Fail") == Rules(breaker=None)
    assert rules_of("Echo") == Rules()
    assert rules_of("Append").idempotent
    assert not rules_of("Append").hedge
    assert rules_of("Once").max_attempts == 1
    assert _rules.of_method("/nobody.v1.NobodyService/Call") == Rules()


def test_a_policy_is_laid_over_the_service_s_field_by_field():
    under = options_pb2.TaskPolicy(attempt_timeout=Duration(nanos=500_000_000))
    under.retry.max_attempts = 2
    under.retry.non_retryable_codes.extend([10, 14])
    over = options_pb2.TaskPolicy(attempt_timeout=Duration(seconds=1))
    over.retry.non_retryable_codes.append(13)
    _rules._lay(over, under)
    assert under.attempt_timeout == Duration(seconds=1)
    assert under.retry.max_attempts == 2
    assert list(under.retry.non_retryable_codes) == [13]


def test_options_win_over_the_contract():
    said = _rules.DirectOptions(max_attempts=9, hedge_delay=0.25, breaker=None, limiter=None)
    found = rules_of("Echo").under(said)
    assert (found.max_attempts, found.hedge_delay_ms) == (5, 250)
    assert found.breaker is None
    assert found.limiter is None
    with plait.direct_options(max_attempts=2), plait.direct_options(hedge=True):
        assert _rules.current.get() == {"max_attempts": 2, "hedge": True}
    assert _rules.current.get() is None


async def test_a_hedge_that_finds_no_place_is_not_sent():
    numbers = itertools.count(1)
    gate = asyncio.Event()

    async def handler(number: int, context: Any) -> Any:
        await gate.wait()
        return echo_pb2.EchoResponse(payload=str(next(numbers)).encode())

    rules = Rules(
        idempotent=True,
        hedge=True,
        hedge_delay_ms=1,
        limiter=LimiterConfig(initial=1, max=1),
    )
    async with worker(handler) as (channel, seen):
        call = asyncio.ensure_future(calling(channel, rules).run())
        await asyncio.wait([call], timeout=0.2)
        gate.set()
        assert (await call).payload == b"1"
    assert len(seen) == 1
