"""Flows: which calls are children, and what they do to slots."""

import asyncio
from typing import Any

import pytest
from sdk.python.tests.contracts import shop
from sdk.python.tests.pocket_broker import PocketWorker
from sdk.python.tests.shops import receipt, stub_of, worker_of

import plait
from plait.v1 import contract_service_pb2


def serve_flow(client: plait.Client, settle: Any, **options: Any) -> plait.Worker:
    stub = stub_of(client)

    async def charge(request: Any, context: Any) -> Any:
        return receipt(request)

    async def run(request: Any, context: Any) -> Any:
        return shop.SettleResponse(receipts=await settle(stub, request.orders))

    return worker_of(client, {"Charge": charge, "Settle": run}, **options)


async def one_by_one(stub: Any, orders: Any) -> list[str]:
    return [(await stub.Charge(shop.ChargeRequest(order_id=order))).receipt_id for order in orders]


async def all_at_once(stub: Any, orders: Any) -> list[str]:
    calls = [stub.Charge(shop.ChargeRequest(order_id=order)) for order in orders]
    return [each.receipt_id for each in await asyncio.gather(*calls)]


@pytest.mark.parametrize("settle", [one_by_one, all_at_once])
async def test_calls_of_a_handler_are_children(client, pocket, settle):
    # One slot, which the flow would hold for ever if it did not give it back.
    async with serve_flow(client, settle, concurrency=1):
        answer = await stub_of(client).Settle(shop.SettleRequest(orders=["a", "b", "c"]))
    assert answer.receipts == ["r-a", "r-b", "r-c"]
    parents = [each.options.parent for each in pocket.tasks.values()]
    assert [(each.task, each.token) for each in parents] == [(0, 0), (1, 1), (1, 1), (1, 1)]
    assert all(getattr(each, "await") for each in pocket.frames)


async def test_equal_options_of_children_are_said_once(client, pocket):
    async with serve_flow(client, all_at_once):
        await stub_of(client).Settle(shop.SettleRequest(orders=[str(each) for each in range(200)]))
    large = max(pocket.frames, key=lambda each: len(each.tasks.payloads))
    assert large.tasks.common.parent.task == 1
    assert not large.tasks.options


async def test_a_flow_fans_out_through_map(client):
    async def settle(stub, orders):
        requests = (shop.ChargeRequest(order_id=order) for order in orders)
        return [
            each.receipt_id async for each in client.call_many(stub.Charge, requests, window=16)
        ]

    async with serve_flow(client, settle, concurrency=2):
        answer = await stub_of(client).Settle(
            shop.SettleRequest(orders=[str(each) for each in range(300)])
        )
    assert list(answer.receipts) == [f"r-{each}" for each in range(300)]


async def test_submit_in_a_flow_is_a_child_with_a_key(client, pocket):
    async def settle(stub, orders):
        tasks = [
            await client.submit(stub.Charge, shop.ChargeRequest(order_id=order), child_key=order)
            for order in orders
        ]
        return [(await task.result()).receipt_id for task in tasks]

    async with serve_flow(client, settle, concurrency=1):
        answer = await stub_of(client).Settle(shop.SettleRequest(orders=["a", "b"]))
    assert answer.receipts == ["r-a", "r-b"]
    parents = [each.options.parent for each in pocket.tasks.values()]
    assert [each.child_key for each in parents] == ["", "a", "b"]
    assert getattr(pocket.frames[1], "await")


async def test_detached_calls_are_ordinary_tasks(client, pocket):
    async def settle(stub, orders):
        stub = stub_of(client.detached())
        task = await client.detached().submit(stub.Charge, shop.ChargeRequest(order_id="x"))
        return [*(await one_by_one(stub, orders)), (await task.result()).receipt_id]

    async with serve_flow(client, settle, concurrency=2):
        answer = await stub_of(client).Settle(shop.SettleRequest(orders=["a"]))
    assert answer.receipts == ["r-a", "r-x"]
    assert not any(each.options.HasField("parent") for each in pocket.tasks.values())


async def test_another_client_makes_ordinary_tasks(client, pocket):
    async with plait.connect(pocket.address) as other:

        async def settle(stub, orders):
            return await one_by_one(stub_of(other), orders)

        async with serve_flow(client, settle, concurrency=2):
            await stub_of(client).Settle(shop.SettleRequest(orders=["a"]))
    assert not any(each.options.HasField("parent") for each in pocket.tasks.values())


async def test_children_that_nobody_waits_for_are_forgotten(client, pocket):
    pocket.policies["/shop.v1.OrderService/Post"] = contract_service_pb2.MethodInfo(
        method="/shop.v1.OrderService/Post", queue="elsewhere"
    )

    async def settle(stub, orders):
        # Nobody serves it.
        await client.submit(stub.Post, shop.PostRequest())
        return []

    async with serve_flow(client, settle, concurrency=1):
        stub = stub_of(client)
        await stub.Settle(shop.SettleRequest())
        await pocket.until(lambda: any(2 in each.forget for each in pocket.awaits))
        # The slot was counted right: the worker goes on.
        pocket.ready.clear()
        await asyncio.gather(*(stub.Charge(shop.ChargeRequest()) for _ in range(5)))


async def test_awaited_children_are_asked_for_again_as_the_flows(client, pocket):
    async def settle(stub, orders):
        return [(await stub.Post(shop.PostRequest())).receipt_id]

    async with serve_flow(client, settle):
        task = await client.submit(stub_of(client).Settle, shop.SettleRequest())
        await pocket.until(lambda: len(pocket.tasks) == 2)
        pocket.cut_submitters()
        await pocket.until(lambda: any(2 in each.tasks for each in pocket.awaits))
        again = next(each for each in pocket.awaits if 2 in each.tasks)
        assert (again.parent.task, again.parent.token) == (1, 1)
        pocket.stop_attempt(1)
    assert task.id == "t0000000000000001"


def unloaded(worker: PocketWorker) -> list[tuple[int, int]]:
    """The flows that a worker said it does not hold any more."""
    frames = [each.suspend for each in worker.said if each.HasField("suspend")]
    return [lease for each in frames for lease in zip(each.tasks, each.tokens, strict=True)]


async def test_a_drain_unloads_a_flow_that_waits(client, pocket):
    cancelled = asyncio.Event()

    async def settle(stub, orders):
        try:
            await stub.Post(shop.PostRequest())  # Nobody serves it.
        except asyncio.CancelledError:
            cancelled.set()
            raise

    running = asyncio.create_task((worker := serve_flow(client, settle)).run())
    await client.submit(stub_of(client).Settle, shop.SettleRequest())
    await pocket.until(lambda: len(pocket.tasks) == 2)
    (stream,) = pocket.workers
    worker.stop()
    await running
    assert cancelled.is_set()
    assert unloaded(stream) == [(1, 1)]
    assert not pocket.outcomes


async def test_a_drain_lets_a_flow_go_on_until_it_waits(client, pocket):
    started, go = asyncio.Event(), asyncio.Event()

    async def settle(stub, orders):
        child = await client.submit(stub.Post, shop.PostRequest())
        started.set()
        # It has asked for a child and does something else, which is not to be cut off.
        await go.wait()
        await child.result()

    running = asyncio.create_task((worker := serve_flow(client, settle)).run())
    await client.submit(stub_of(client).Settle, shop.SettleRequest())
    await started.wait()
    (stream,) = pocket.workers
    worker.stop()
    await pocket.until(lambda: any(each.HasField("drain") for each in stream.said))
    assert not unloaded(stream)
    go.set()
    await running
    assert unloaded(stream) == [(1, 1)]
    assert not pocket.outcomes
