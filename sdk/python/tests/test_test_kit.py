"""Time that is moved, and attempts that fail as told, against a real broker."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from sdk.python.tests.contracts import shop
from sdk.python.tests.shops import receipt, serve, stub_of

import plait
from plait.testing import Mesh, TestKit

CHARGE = "shop.v1.OrderService/Charge"
MONTH = timedelta(days=30)


@pytest.fixture
async def client(plait_kit_mesh: Mesh) -> AsyncIterator[plait.Client]:
    async with plait_kit_mesh.connect() as opened:
        yield opened


@pytest.fixture
async def kit(plait_kit_mesh: Mesh) -> AsyncIterator[TestKit]:
    kit = plait_kit_mesh.kit
    yield kit
    await kit.clear()


class Subscriptions:
    """Six months, a month after the other, whatever becomes of this process."""

    def __init__(self, client: plait.Client, kit: TestKit) -> None:
        self.stub = shop.SubscriptionServiceStub(client.channel())
        self.client = client
        self.kit = kit
        self.billed: list[Any] = []

    def worker(self) -> plait.Worker:
        methods = {"Bill": staticmethod(self.bill), "Subscribe": staticmethod(self.subscribe)}
        servicer = type("Servicer", (shop.SubscriptionServiceServicer,), methods)()
        return self.client.worker().serve(servicer, shop.add_SubscriptionServiceServicer_to_server)

    async def bill(self, request: Any, context: Any) -> Any:
        self.billed.append((request.order_id, await self.kit.now()))
        return receipt(request)

    async def subscribe(self, request: Any, context: Any) -> Any:
        receipts = []
        for month in request.orders:
            with plait.options(delay=MONTH):
                bill = await self.stub.Bill(shop.ChargeRequest(order_id=month))
            receipts.append(bill.receipt_id)
        return shop.SettleResponse(receipts=receipts)


async def test_half_a_year_takes_no_time(client, kit):
    months = [str(number) for number in range(6)]
    subscriptions = Subscriptions(client, kit)
    began = time.monotonic()
    async with subscriptions.worker():
        start = await kit.now()
        request = shop.SettleRequest(orders=months)
        task = await client.submit(subscriptions.stub.Subscribe, request)
        end = await kit.finish(task)
        answer = await task.result()
    assert answer.receipts == [f"r-{month}" for month in months]
    assert [month for month, _ in subscriptions.billed] == months
    # The clock goes on, too, while the worker works.
    slack = timedelta(seconds=time.monotonic() - began + 1)
    assert 6 * MONTH <= end - start <= 6 * MONTH + slack
    for number, (_, when) in enumerate(subscriptions.billed, 1):
        assert number * MONTH <= when - start <= number * MONTH + slack


async def test_a_worker_that_dies_in_the_fourth_month_repeats_nothing(client, kit):
    months = [str(number) for number in range(6)]
    subscriptions = Subscriptions(client, kit)
    async with subscriptions.worker():
        request = shop.SettleRequest(orders=months)
        task = await client.submit(subscriptions.stub.Subscribe, request)
        await kit.advance(3 * MONTH + timedelta(days=1))
        assert len(subscriptions.billed) == 3
        # All that the worker holds, the flow included.
        await kit.drop_stream("shop.v1.SubscriptionService/Bill", times=1)
        await kit.finish(task)
        assert await kit.struck() == [1]
        answer = await task.result()
    assert len(answer.receipts) == 6
    # The month that the stream broke in may have been billed before the worker heard of it.
    billed = [month for month, _ in subscriptions.billed]
    assert sorted(set(billed)) == months
    assert all(billed.count(month) == 1 for month in months if month != "3")


async def test_what_is_submitted_after_a_flag_was_set_sees_it(client, kit):
    async def charge(request: Any, context: Any) -> Any:
        return shop.ChargeResponse(receipt_id="on" if plait.flag("new-pricing") else "off")

    async with serve(client, charge):
        seen: list[str] = []
        for on in (True, False, True):
            await kit.set_flag("new-pricing", on)
            answer = await stub_of(client).Charge(shop.ChargeRequest(order_id=f"{len(seen)}"))
            seen.append(answer.receipt_id)
    assert seen == ["on", "off", "on"]


async def test_what_is_due_and_no_more(client, kit):
    async with serve(client):
        stub = stub_of(client)
        with plait.options(delay=3600):
            task = await client.submit(stub.Charge, shop.ChargeRequest())
        await kit.advance(timedelta(minutes=59))
        assert await task.state() is plait.TaskState.SCHEDULED
        await kit.advance(timedelta(minutes=1))
        assert await task.state() is plait.TaskState.SUCCEEDED


@pytest.mark.parametrize("after", [False, True])
async def test_the_first_attempt_fails(client, kit, after):
    ran = []

    async def charge(request: Any, context: Any) -> Any:
        ran.append(plait.attempt().number)
        return receipt(request)

    await kit.fail(CHARGE, grpc.StatusCode.INTERNAL, after=after)
    async with serve(client, charge):
        answer = await stub_of(client).Charge(shop.ChargeRequest(order_id="1"))
    assert answer.receipt_id == "r-1"
    assert ran == ([1, 2] if after else [2])
    assert await kit.struck() == [1]


async def test_every_attempt_fails_with_what_the_test_says(client, kit):
    await kit.fail(CHARGE, grpc.StatusCode.NOT_FOUND, "no such order", attempts=())
    async with serve(client):
        with pytest.raises(grpc.aio.AioRpcError, match="no such order") as caught:
            await stub_of(client).Charge(shop.ChargeRequest())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_lease_that_ends_stops_the_handler_and_refuses_its_answer(client, kit):
    stopped = asyncio.Event()

    async def charge(request: Any, context: Any) -> Any:
        if plait.attempt().number == 1:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()
        return receipt(request)

    await kit.expire_lease(CHARGE)
    async with serve(client, charge):
        answer = await stub_of(client).Charge(shop.ChargeRequest(order_id="1"))
        await asyncio.wait_for(stopped.wait(), 20)
    assert answer.receipt_id == "r-1"


async def test_what_holds_the_clock_is_said(client, kit):
    async with serve(client):
        stub = stub_of(client)
        await stub.Charge(shop.ChargeRequest())
    task = await client.submit(stub.Charge, shop.ChargeRequest())
    with pytest.raises(grpc.aio.AioRpcError, match="no worker serves it") as caught:
        await kit.finish(task, patience=0.1)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    # Not in time: the deadline passes all the same.
    await kit.advance(timedelta(hours=25), regardless=True)
    assert await task.state() is plait.TaskState.EXPIRED


def test_a_mesh_without_a_kit_says_so(plait_mesh: Mesh):
    with pytest.raises(RuntimeError, match="test_kit=True"):
        _ = plait_mesh.kit
