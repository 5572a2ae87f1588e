"""Reads a serialized FileDescriptorSet into a contract."""

from collections.abc import Iterable, Mapping

from google.protobuf import (
    any_pb2,
    api_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    source_context_pb2,
    struct_pb2,
    timestamp_pb2,
    type_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Error as DescriptorError
from google.protobuf.message import DecodeError

from plait_scheduler.descriptors.message_reader import read_messages
from plait_scheduler.descriptors.option_reader import (
    plait_extensions,
    task_defaults_option,
    task_option,
    unknown_options,
)
from plait_scheduler.domain.contract import Contract, MethodShape, ServiceShape

_WELL_KNOWN: Mapping[str, bytes] = {
    module.DESCRIPTOR.name: module.DESCRIPTOR.serialized_pb
    for module in (
        any_pb2,
        api_pb2,
        descriptor_pb2,
        duration_pb2,
        empty_pb2,
        field_mask_pb2,
        source_context_pb2,
        struct_pb2,
        timestamp_pb2,
        type_pb2,
        wrappers_pb2,
    )
}
_IDEMPOTENT = descriptor_pb2.MethodOptions.IDEMPOTENT


class ContractReadError(ValueError):
    """The bytes are no descriptor set that holds the services; the text says why."""


def read_contract(descriptor_set: bytes, services: Iterable[str], digest: str) -> Contract:
    """Reads the named services and every message they reach. Raises ContractReadError."""
    files = _files(descriptor_set)
    pool = _pool(files)
    declared = {
        f"{file.package}.{service.name}".lstrip("."): (file, service)
        for file in files.values()
        for service in file.service
    }
    names = sorted(set(services))
    if not names:
        raise ContractReadError("no service is named")
    missing = [name for name in names if name not in declared]
    if missing:
        raise ContractReadError(f"the descriptor set does not declare {', '.join(missing)}")
    shapes = tuple(_service(*declared[name], files) for name in names)
    messages, enums = read_messages(
        pool.FindMessageTypeByName(name)
        for service in shapes
        for method in service.methods
        for name in (method.request, method.response)
    )
    return Contract(digest, shapes, messages, {enum.name: enum for enum in enums})


def _files(descriptor_set: bytes) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    try:
        parsed = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set)
    except DecodeError as error:
        raise ContractReadError(f"not a FileDescriptorSet: {error}") from error
    for file in parsed.file:
        # proto2 strings that are no UTF-8 come as bytes. Names inside are checked by the pool.
        if not all(isinstance(name, str) for name in (file.name, file.package, *file.dependency)):
            raise ContractReadError("the name of a file or package is no text")
    return {file.name: file for file in parsed.file}


def _pool(
    files: Mapping[str, descriptor_pb2.FileDescriptorProto],
) -> descriptor_pool.DescriptorPool:
    """Links the files, which proves that every type is there. Imports come first, whatever the
    order was.
    """
    pool = descriptor_pool.DescriptorPool()
    done: set[str] = set()
    for root in files:
        stack = [root]
        while stack:
            name = stack[-1]
            file = files.get(name) or _well_known(name)
            waiting = [other for other in file.dependency if other not in done]
            if name in done:
                stack.pop()
            elif not waiting:
                _add(pool, file)
                done.add(name)
            elif set(waiting) & set(stack):
                raise ContractReadError(f"{name}: imports go round in a circle")
            else:
                stack += waiting
    return pool


def _add(pool: descriptor_pool.DescriptorPool, file: descriptor_pb2.FileDescriptorProto) -> None:
    try:
        pool.Add(file)
        pool.FindFileByName(file.name)
    except (TypeError, KeyError, DescriptorError) as error:
        raise ContractReadError(f"{file.name}: {error}") from error


def _well_known(name: str) -> descriptor_pb2.FileDescriptorProto:
    """The files that an announcement leaves out."""
    known = _WELL_KNOWN.get(name)
    if known is None:
        raise ContractReadError(f"{name} is imported, but not in the descriptor set")
    return descriptor_pb2.FileDescriptorProto.FromString(known)


def _service(
    file: descriptor_pb2.FileDescriptorProto,
    service: descriptor_pb2.ServiceDescriptorProto,
    files: Mapping[str, descriptor_pb2.FileDescriptorProto],
) -> ServiceShape:
    of_methods = plait_extensions(files.values(), "MethodOptions")
    of_services = plait_extensions(files.values(), "ServiceOptions")
    return ServiceShape(
        name=f"{file.package}.{service.name}".lstrip("."),
        file=file.name,
        methods=tuple(_method(method, of_methods) for method in service.method),
        task_defaults=task_defaults_option(service.options),
        unknown_options=unknown_options(service.options, of_services),
    )


def _method(
    method: descriptor_pb2.MethodDescriptorProto, extensions: dict[int, str]
) -> MethodShape:
    return MethodShape(
        name=method.name,
        request=method.input_type.removeprefix("."),
        response=method.output_type.removeprefix("."),
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        task=task_option(method.options),
        declared_with_effects=method.options.idempotency_level == _IDEMPOTENT,
        unknown_options=unknown_options(method.options, extensions),
    )
