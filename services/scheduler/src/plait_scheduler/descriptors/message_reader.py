"""Reads linked descriptors of messages and enums into shapes."""

from collections.abc import Iterable

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from plait_scheduler.domain.contract import EnumShape, FieldShape, Kind, MessageShape, Reserved

_KINDS = {
    FieldDescriptor.TYPE_DOUBLE: Kind.DOUBLE,
    FieldDescriptor.TYPE_FLOAT: Kind.FLOAT,
    FieldDescriptor.TYPE_INT32: Kind.INT32,
    FieldDescriptor.TYPE_INT64: Kind.INT64,
    FieldDescriptor.TYPE_UINT32: Kind.UINT32,
    FieldDescriptor.TYPE_UINT64: Kind.UINT64,
    FieldDescriptor.TYPE_SINT32: Kind.SINT32,
    FieldDescriptor.TYPE_SINT64: Kind.SINT64,
    FieldDescriptor.TYPE_FIXED32: Kind.FIXED32,
    FieldDescriptor.TYPE_FIXED64: Kind.FIXED64,
    FieldDescriptor.TYPE_SFIXED32: Kind.SFIXED32,
    FieldDescriptor.TYPE_SFIXED64: Kind.SFIXED64,
    FieldDescriptor.TYPE_BOOL: Kind.BOOL,
    FieldDescriptor.TYPE_STRING: Kind.STRING,
    FieldDescriptor.TYPE_BYTES: Kind.BYTES,
    FieldDescriptor.TYPE_ENUM: Kind.ENUM,
    FieldDescriptor.TYPE_MESSAGE: Kind.MESSAGE,
    FieldDescriptor.TYPE_GROUP: Kind.GROUP,
}


def read_messages(roots: Iterable[Descriptor]) -> tuple[dict[str, MessageShape], list[EnumShape]]:
    """These messages and every message and enum that they reach."""
    messages: dict[str, MessageShape] = {}
    enums: dict[str, EnumShape] = {}
    waiting = list(roots)
    while waiting:
        descriptor = waiting.pop()
        if descriptor.full_name in messages:
            continue
        messages[descriptor.full_name] = _message(descriptor)
        waiting += [field.message_type for field in descriptor.fields if field.message_type]
        for field in descriptor.fields:
            if field.enum_type and field.enum_type.full_name not in enums:
                enums[field.enum_type.full_name] = _enum(field.enum_type)
    return messages, list(enums.values())


def _message(descriptor: Descriptor) -> MessageShape:
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    optional = {field.name for field in proto.field if field.proto3_optional}
    # The end of a range of a message is not in it.
    reserved = Reserved(
        tuple((each.start, each.end - 1) for each in proto.reserved_range),
        tuple(sorted(proto.reserved_name)),
    )
    fields = tuple(_field(field, field.name in optional) for field in descriptor.fields)
    return MessageShape(descriptor.full_name, fields, reserved)


def _field(field: FieldDescriptor, optional: bool) -> FieldShape:
    target = field.message_type or field.enum_type
    return FieldShape(
        name=field.name,
        number=field.number,
        kind=_KINDS[field.type],
        repeated=field.is_repeated,
        type_name=target.full_name if target else "",
        has_default=field.has_default_value and field.default_value != _zero(field),
        is_map=bool(field.message_type and field.message_type.GetOptions().map_entry),
        json_name=field.json_name,
        oneof=field.containing_oneof.name if field.containing_oneof and not optional else "",
    )


def _enum(descriptor: EnumDescriptor) -> EnumShape:
    proto = descriptor_pb2.EnumDescriptorProto()
    descriptor.CopyToProto(proto)
    reserved = Reserved(
        tuple((each.start, each.end) for each in proto.reserved_range),
        tuple(sorted(proto.reserved_name)),
    )
    values = tuple((value.name, value.number) for value in descriptor.values)
    return EnumShape(descriptor.full_name, values, reserved)


def _zero(field: FieldDescriptor) -> object:
    """What readers by number take for a field that is not set."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return ""
    return b"" if field.type == FieldDescriptor.TYPE_BYTES else 0
