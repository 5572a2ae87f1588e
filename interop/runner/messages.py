"""Messages of the service under test, between YAML and bytes."""

from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from plait.conformance.v1 import client_driver_pb2 as api
from testing.v1 import echo_pb2

DETAILS = error_details_pb2.DESCRIPTOR
"""What an Any may hold, so that JSON can tell it."""
SERVICE = echo_pb2.DESCRIPTOR.services_by_name["EchoService"]


def request(method: str, fields: dict[str, Any]) -> Message:
    """A request made of JSON."""
    kind = message_factory.GetMessageClass(SERVICE.methods_by_name[method].input_type)
    return json_format.ParseDict(fields, kind())


def response(method: str, data: bytes) -> Message:
    """A response made of bytes."""
    kind = message_factory.GetMessageClass(SERVICE.methods_by_name[method].output_type)
    return kind.FromString(data)


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON has it, in the words of its proto file."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def options(fields: dict[str, Any]) -> api.CallOptions:
    """Call options made of JSON."""
    return json_format.ParseDict(fields, api.CallOptions())
