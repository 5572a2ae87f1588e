"""Many submissions: order, bounded memory, slow sources, early ends."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sdk.python.tests.contracts import shop
from sdk.python.tests.shops import orders, serve, stub_of


async def test_handles_come_in_order(client):
    stub = stub_of(client)
    tasks = [task async for task in client.submit_many(stub.Charge, orders(1000), window=100)]
    assert [task.id for task in tasks] == [f"t{number:016x}" for number in range(1, 1001)]


async def test_the_window_bounds_what_is_taken_from_the_source(client, pocket):
    taken = 0

    def source() -> Iterator[Any]:
        nonlocal taken
        for request in orders(1000):
            taken += 1
            yield request

    stub = stub_of(client)
    async with serve(client):
        async for response in client.call_many(stub.Charge, source(), window=10):
            number = int(response.receipt_id[2:])
            assert taken <= number + 10
    assert taken == 1000


async def test_a_slow_source_holds_up_no_result(client):
    go_on = asyncio.Event()

    async def source() -> AsyncIterator[Any]:
        yield shop.ChargeRequest(order_id="first")
        await go_on.wait()
        yield shop.ChargeRequest(order_id="second")

    seen = []
    async with serve(client):
        async for response in client.call_many(stub_of(client).Charge, source()):
            seen.append(response.receipt_id)
            go_on.set()
    assert seen == ["r-first", "r-second"]


async def test_an_error_of_the_source_is_raised(client):
    async def source() -> AsyncIterator[Any]:
        yield shop.ChargeRequest(order_id="first")
        raise ValueError("the file ends in the middle")

    async with serve(client):
        with pytest.raises(ValueError, match="in the middle"):
            async for _ in client.call_many(stub_of(client).Charge, source()):
                pass


async def test_the_keys_of_many(client, pocket):
    stub = stub_of(client)
    async for _ in client.submit_many(stub.Charge, orders(3), key=lambda each: f"k{each.order_id}"):
        pass
    assert [each.key for each in pocket.tasks.values()] == ["k0", "k1", "k2"]


async def test_results_that_are_not_read_are_forgotten(client, pocket):
    stub = stub_of(client)
    results = client.call_many(stub.Charge, orders(5))
    first = asyncio.ensure_future(anext(results))
    await pocket.until(lambda: len(pocket.tasks) == 5)
    async with serve(client):
        assert (await first).receipt_id == "r-0"
    stub.Charge(shop.ChargeRequest())
    await results.aclose()


@pytest.mark.parametrize("call", ["call_many", "submit_many"])
async def test_a_window_of_nothing_is_refused(client, call):
    with pytest.raises(ValueError, match="window"):
        async for _ in getattr(client, call)(stub_of(client).Charge, orders(1), window=0):
            pass


async def test_submit_takes_methods_of_its_own_channels_only(client):
    with pytest.raises(TypeError, match="channel"):
        await client.submit(len, shop.ChargeRequest())
