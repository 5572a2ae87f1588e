"""The contract of `plait bench`: one method that answers with its payload. Made at run time, so
that no generated code of it is shipped.
"""

import functools
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from plait.v1 import options_pb2

SERVICE: Final = "plait.bench.v1.BenchService"
METHOD: Final = f"{SERVICE}/Echo"


@functools.cache
def echo_class() -> Any:
    """The message with one field `payload`, which is both request and response."""
    file = descriptor_pb2.FileDescriptorProto(
        name="plait/bench/v1/bench.proto",
        package="plait.bench.v1",
        syntax="proto3",
        dependency=["plait/v1/options.proto"],
    )
    message = file.message_type.add(name="Echo")
    message.field.add(
        name="payload",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
    )
    service = file.service.add(name="BenchService")
    method = service.method.add(
        name="Echo", input_type=".plait.bench.v1.Echo", output_type=".plait.bench.v1.Echo"
    )
    # Results are not for keeping.
    policy = method.options.Extensions[options_pb2.task]
    policy.queue = "plait.bench"
    policy.retention.seconds = 30
    policy.idempotency_window.seconds = 30
    pool = descriptor_pool.Default()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("plait.bench.v1.Echo"))


def multicallable(channel: grpc.aio.Channel, path: str) -> Any:
    """A method under a channel, whose request and response have a field `payload` of number 1."""
    echo = echo_class()
    return channel.unary_unary(
        path, request_serializer=echo.SerializeToString, response_deserializer=echo.FromString
    )


def add_to_server(servicer: Any, server: Any) -> None:
    """As generated code does it."""
    echo = echo_class()
    handler = grpc.unary_unary_rpc_method_handler(
        servicer, request_deserializer=echo.FromString, response_serializer=echo.SerializeToString
    )
    server.add_registered_method_handlers(SERVICE, {"Echo": handler})
