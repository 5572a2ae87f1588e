"""The methods that a worker serves, as the user's generated code registers them."""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc

from plait import _descriptors

_log = logging.getLogger(__name__)


class Served:
    """One method: its handler and how messages are read and written."""

    __slots__ = ("deserialize", "handler", "is_async", "name", "queue", "serialize")

    def __init__(self, name: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> None:
        # "package.Service/Method"
        self.name = name
        behaviour = handler.unary_unary
        if behaviour is None:
            raise ValueError(f"{name} has no handler")
        self.handler: Callable[[Any, Any], Any] = behaviour
        self.is_async = is_async(behaviour)
        self.deserialize: Callable[[bytes], Any] = handler.request_deserializer or _as_it_is
        self.serialize: Callable[[Any], bytes] = handler.response_serializer or _as_it_is
        # Where its tasks wait; known once the contract was announced.
        self.queue = ""

    @property
    def path(self) -> str:
        """ "/package.Service/Method"."""
        return "/" + self.name


class Registry(grpc.aio.Server):
    """What `add_XServicer_to_server` takes for a server: it collects the methods."""

    def __init__(self) -> None:
        self.methods: dict[str, Served] = {}
        self.services: set[str] = set()

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]
    ) -> None:
        """Takes the methods of a service. Raises ValueError for one that cannot be a task."""
        if _descriptors.find_service(service_name) is None:
            raise ValueError(f"{service_name} has no descriptor in this program")
        found: dict[str, Served] = {}
        for method_name, handler in method_handlers.items():
            name = f"{service_name}/{method_name}"
            if handler.request_streaming or handler.response_streaming:
                raise ValueError(
                    f"{name} streams, and a task has one request and one response;"
                    " keep streaming methods in a service of their own, on a plain gRPC server"
                )
            if name in self.methods:
                raise ValueError(f"{name} is served already")
            if _is_left_out(handler.unary_unary):
                _log.info("%s is not implemented here and so not served", name)
                continue
            found[name] = Served(name, handler)
        if not found:
            raise ValueError(f"no method of {service_name} is implemented")
        self.methods |= found
        self.services.add(service_name)

    def add_generic_rpc_handlers(
        self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]
    ) -> None:
        """The same methods again, for servers of before registered methods."""

    def add_insecure_port(self, address: str) -> NoReturn:
        _refuse()

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> NoReturn:
        _refuse()

    async def start(self) -> None:
        _refuse()

    async def stop(self, grace: float | None) -> None:
        _refuse()

    async def wait_for_termination(
        self,
        timeout: float | None = None,  # noqa: ASYNC109  # the name is gRPC's
    ) -> bool:
        _refuse()


def is_async(behaviour: Any) -> bool:
    """Whether calling it makes a coroutine: an object may have an async `__call__`."""
    call = getattr(behaviour, "__call__", None)  # noqa: B004  # not whether it has one, but which
    return inspect.iscoroutinefunction(behaviour) or inspect.iscoroutinefunction(call)


def _is_left_out(behaviour: Any) -> bool:
    """Whether a method is the generated base class's, which answers UNIMPLEMENTED.

    Another worker may implement it: a service can be shared between languages, and a task that
    nobody implements
    yet waits instead of failing for good.
    """
    return str(getattr(behaviour, "__module__", "")).endswith("_pb2_grpc")


def _as_it_is(message: Any) -> Any:
    return message


def _refuse() -> NoReturn:
    raise grpc.aio.UsageError("a worker listens nowhere: it fetches its tasks from the broker")
