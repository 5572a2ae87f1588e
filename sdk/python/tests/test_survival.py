"""What the SDK promises when processes die, against the real broker."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from sdk.python.tests.contracts import shop
from sdk.python.tests.shops import orders, receipt, serve, stub_of, worker_of

import plait
from plait import errors
from plait.testing import Mesh


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    """One of its own, to be killed."""
    with Mesh() as started:
        yield started


async def test_calls_survive_kills_of_the_broker(mesh: Mesh):
    ran: Counter[str] = Counter()

    async def charge(request: Any, context: Any) -> Any:
        ran[request.order_id] += 1
        await asyncio.sleep(0)
        return receipt(request)

    got = []
    async with mesh.connect() as client, serve(client, charge):
        stub = stub_of(client)
        async for response in client.call_many(stub.Charge, orders(6000), window=1000):
            got.append(response.receipt_id)
            if len(got) in (500, 3000):
                await asyncio.to_thread(mesh.kill_broker)
                await asyncio.to_thread(mesh.start_broker)
    assert got == [f"r-{number}" for number in range(6000)]
    assert ran.keys() == {str(number) for number in range(6000)}


async def test_known_contracts_go_on_without_a_scheduler(mesh: Mesh):
    async with mesh.connect() as client, serve(client):
        stub = stub_of(client)
        await stub.Charge(shop.ChargeRequest())
        mesh.kill_scheduler()
        async with plait.connect(mesh.address) as other:
            assert (await stub_of(other).Charge(shop.ChargeRequest(order_id="1"))).receipt_id
        async with mesh.connect() as third, serve(third):
            await asyncio.gather(*(stub.Charge(each) for each in orders(50)))


async def test_a_flow_that_is_run_again_repeats_no_child(mesh: Mesh):
    ran: Counter[str] = Counter()
    runs = 0
    reached = asyncio.Event()

    async def charge(request: Any, context: Any) -> Any:
        ran[request.order_id] += 1
        return receipt(request)

    def settle_of(stub: Any) -> Any:
        async def settle(request: Any, context: Any) -> Any:
            nonlocal runs
            runs += 1
            charged = [await stub.Charge(shop.ChargeRequest(order_id="first"))]
            many = [stub.Charge(shop.ChargeRequest(order_id=each)) for each in request.orders]
            charged += await asyncio.gather(*many)
            if runs == 1:
                reached.set()
                await asyncio.Event().wait()
            charged.append(await stub.Charge(shop.ChargeRequest(order_id="last")))
            return shop.SettleResponse(receipts=[each.receipt_id for each in charged])

        return settle

    def worker(client: plait.Client, grace: float) -> plait.Worker:
        methods = {"Charge": charge, "Settle": settle_of(stub_of(client))}
        return worker_of(client, methods, concurrency=2, grace=grace)

    names = [str(number) for number in range(500)]
    async with mesh.connect() as submitter:
        task = await submitter.submit(stub_of(submitter).Settle, shop.SettleRequest(orders=names))
        async with mesh.connect() as first, worker(first, 0.0):
            await reached.wait()
        async with mesh.connect() as second, worker(second, 5.0):
            answer = await task.result()
    assert list(answer.receipts) == [f"r-{each}" for each in ["first", *names, "last"]]
    assert runs == 2
    assert set(ran.values()) == {1}
    assert len(ran) == 502


async def test_a_flow_that_asks_for_other_children_is_refused(mesh: Mesh):
    runs = 0

    async def charge(request: Any, context: Any) -> Any:
        return receipt(request)

    async with mesh.connect() as client:
        stub = stub_of(client)

        async def settle(request: Any, context: Any) -> Any:
            nonlocal runs
            runs += 1
            await stub.Charge(shop.ChargeRequest(order_id=f"run {runs}"))
            raise RuntimeError("run me again")

        async with worker_of(client, {"Charge": charge, "Settle": settle}):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Settle(shop.SettleRequest())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert errors.reason(caught.value) == errors.Reason.FLOW_DIVERGED
    assert runs == 2
