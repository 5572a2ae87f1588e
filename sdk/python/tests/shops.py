"""Servicers of the tests' contract and what is needed around them."""

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


def serve(client: plait.Client, charge: Handler | None = None, **options: Any) -> plait.Worker:
    """A worker whose Charge is this function; by default it answers at once."""

    async def usual(request: Any, context: Any) -> Any:
        return receipt(request)

    behaviour = charge or usual

    class Orders(shop.OrderServiceServicer):  # type: ignore[misc]  # generated at run time
        async def Charge(self, request: Any, context: Any) -> Any:
            return await behaviour(request, context)

        async def Post(self, request: Any, context: Any) -> Any:
            return shop.ChargeResponse(receipt_id=request.entry.id)

    return client.worker(**options).serve(Orders(), shop.add_OrderServiceServicer_to_server)


def serve_sync(client: plait.Client, charge: Callable[[Any, Any], Any]) -> plait.Worker:
    """A worker whose Charge is this plain function."""

    class Orders(shop.OrderServiceServicer):  # type: ignore[misc]  # generated at run time
        def Charge(self, request: Any, context: Any) -> Any:
            return charge(request, context)

    worker = client.worker(concurrency=2)
    return worker.serve(Orders(), shop.add_OrderServiceServicer_to_server)
