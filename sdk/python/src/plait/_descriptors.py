"""Descriptors of a program's own contracts, as they are announced to the broker."""

from collections.abc import Iterable

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor


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


def _collect(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    if file.name in files or file.name.startswith("google/protobuf/"):
        return
    for dependency in file.dependencies:
        _collect(dependency, files)
    files[file.name] = file
