"""Descriptors of a program's own contracts, as they are announced to the broker."""

from collections.abc import Iterable

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor

# Every program has them, so contracts travel without them.
_WELL_KNOWN = (
    descriptor_pb2,
    any_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)


def find_service(name: str) -> ServiceDescriptor | None:
    """The service with this full name, if its generated module was imported."""
    try:
        return descriptor_pool.Default().FindServiceByName(name)
    except KeyError:
        return None


def find_method(path: str) -> MethodDescriptor | None:
    """The method of a path "/package.Service/Method", if its generated module was imported."""
    service_name, _, method_name = path.lstrip("/").rpartition("/")
    service = find_service(service_name)
    if service is None:
        return None
    return service.methods_by_name.get(method_name)


def descriptor_set(services: Iterable[ServiceDescriptor]) -> bytes:
    """A serialized FileDescriptorSet of the services' files and their imports.

    Imports come before what imports them; google/protobuf/* is left out, since everybody has it.
    Equal contracts
    give equal bytes.
    """
    files: dict[str, FileDescriptor] = {}
    for service in sorted(services, key=lambda each: each.full_name):
        _collect(service.file, files)
    made = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(made.file.add())
    return made.SerializeToString(deterministic=True)


def pool_of(descriptor_set: bytes) -> descriptor_pool.DescriptorPool:
    """A pool with the files of a contract, whose imports come before what imports them."""
    pool = descriptor_pool.DescriptorPool()
    for module in _WELL_KNOWN:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptor_set).file:
        if not file.name.startswith("google/protobuf/"):
            pool.Add(file)
    return pool


def _collect(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    if file.name in files or file.name.startswith("google/protobuf/"):
        return
    for dependency in file.dependencies:
        _collect(dependency, files)
    files[file.name] = file
