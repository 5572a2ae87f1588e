"""Servicers of the tests' contract and what is needed around them."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from sdk.python.tests.contracts import shop

import plait

Handler = Callable[[Any, Any], Awaitable[Any]]


def stub_of(client: plait.Client) -> Any:
    """A stub over the client's durable channel."""
    return shop.OrderServiceStub(client.channel())


def orders(count: int) -> list[Any]:
    """Requests with the ids 0, 1, 2, ..."""
    return [shop.ChargeRequest(order_id=str(number)) for number in range(count)]


def receipt(request: Any) -> Any:
    """The usual response."""
    return shop.ChargeResponse(receipt_id=f"r-{request.order_id}")


def servicer(**methods: Callable[[Any, Any], Any]) -> Any:
    """A servicer of OrderService with these handlers; the others are left to the base class."""
    handlers = {name: staticmethod(method) for name, method in methods.items()}
    return type("Orders", (shop.OrderServiceServicer,), handlers)()


def worker_of(
    client: plait.Client, methods: dict[str, Callable[[Any, Any], Any]], **options: Any
) -> plait.Worker:
    """A worker with these handlers."""
    orders = servicer(**methods)
    return client.worker(**options).serve(orders, shop.add_OrderServiceServicer_to_server)


def serve(client: plait.Client, charge: Handler | None = None, **options: Any) -> plait.Worker:
    """A worker whose Charge is this function; by default it answers at once."""

    async def usual(request: Any, context: Any) -> Any:
        return receipt(request)

    async def post(request: Any, context: Any) -> Any:
        return shop.ChargeResponse(receipt_id=request.entry.id)

    return worker_of(client, {"Charge": charge or usual, "Post": post}, **options)


def serve_sync(client: plait.Client, charge: Callable[[Any, Any], Any]) -> plait.Worker:
    """A worker whose Charge is this plain function."""
    return worker_of(client, {"Charge": charge}, concurrency=2)


def spin(seconds: float) -> None:
    """Work that does not wait."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
