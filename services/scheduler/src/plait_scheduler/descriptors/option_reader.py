"""Reads the options `plait.v1.task` and `plait.v1.task_defaults` into plain values."""

from collections.abc import Iterable

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from plait.v1 import options_pb2
from plait_scheduler.domain.contract import PolicyOption, PolicyValue, Span

_PACKAGE = "plait.v1"


def task_option(options: descriptor_pb2.MethodOptions) -> PolicyOption | None:
    """What the method sets; None where the option is not written."""
    if not options.HasExtension(options_pb2.task):
        return None
    return _option(options.Extensions[options_pb2.task])


def task_defaults_option(options: descriptor_pb2.ServiceOptions) -> PolicyOption | None:
    """What the service sets; None where the option is not written."""
    if not options.HasExtension(options_pb2.task_defaults):
        return None
    return _option(options.Extensions[options_pb2.task_defaults])


def plait_extensions(
    files: Iterable[descriptor_pb2.FileDescriptorProto], extendee: str
) -> dict[int, str]:
    """Extensions of options that package plait.v1 declares, as the contract's author has it: number
    and name.
    """
    return {
        extension.number: extension.name
        for file in files
        if file.package == _PACKAGE
        for extension in file.extension
        if extension.extendee == f".google.protobuf.{extendee}"
    }


def unknown_options(options: Message, declared: dict[int, str]) -> tuple[str, ...]:
    """Options that are written, that plait.v1 declares, and that this program was built without."""
    return tuple(declared[number] for number in _unknown_numbers(options) if number in declared)


def _option(policy: Message) -> PolicyOption:
    values: dict[str, PolicyValue] = {}
    unknown: list[str] = []
    _flatten(policy, "", values, unknown)
    return PolicyOption(values, tuple(unknown))


def _flatten(
    message: Message, prefix: str, values: dict[str, PolicyValue], unknown: list[str]
) -> None:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if isinstance(value, Duration):
            values[path] = Span(value.seconds, value.nanos)
            unknown += [f"{path}.{number}" for number in _unknown_numbers(value)]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            values[path] = True
            _flatten(value, f"{path}.", values, unknown)
        else:
            values[path] = tuple(value) if field.is_repeated else value
    unknown += [f"{prefix}{number}" for number in _unknown_numbers(message)]


def _unknown_numbers(message: Message) -> list[int]:
    unknown = UnknownFieldSet(message)
    return sorted({unknown[index].field_number for index in range(len(unknown))})
