"""Messages of contracts that are known at run time only: from the broker, or from files."""

import json
import sys
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message

from plait._descriptors import pool_of
from plait.cli._api import Api
from plait.cli._command import Exit, Stop, split_method
from plait.v1 import contract_service_pb2


class Method:
    """A method with the classes of its messages."""

    def __init__(self, pool: descriptor_pool.DescriptorPool, descriptor: MethodDescriptor) -> None:
        self._pool = pool
        self.path = f"/{descriptor.containing_service.full_name}/{descriptor.name}"
        self.request = message_factory.GetMessageClass(descriptor.input_type)
        self.response = message_factory.GetMessageClass(descriptor.output_type)

    def parse(self, text: str) -> Message:
        """A request from JSON. Raises Stop for JSON that is none of it."""
        made: Message = self.request()
        try:
            json_format.Parse(text or "{}", made, descriptor_pool=self._pool)
        except json_format.ParseError as error:
            name = made.DESCRIPTOR.full_name
            raise Stop(Exit.USAGE, f"this is no {name}: {error}") from error
        return made

    def to_dict(self, message: Message) -> Any:
        """The JSON of one of its messages."""
        return json_format.MessageToDict(message, descriptor_pool=self._pool)

    def decode(self, kind: type[Message], payload: bytes) -> str:
        """A payload as JSON in one line; in hexadecimal where it is no message of this type."""
        try:
            return json.dumps(self.to_dict(kind.FromString(payload)), ensure_ascii=False)
        except DecodeError:
            return payload.hex()


async def find(api: Api, text: str) -> Method:
    """A method by its name, from the contract that the broker has."""
    service, name = split_method(text)
    try:
        answer = await api.contracts.GetContract(
            contract_service_pb2.GetContractRequest(service=service), timeout=api.timeout
        )
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
            message = f"no contract declares {service}; start its worker, or `plait contract push`"
            raise Stop(Exit.NOT_FOUND, message) from error
        raise
    pool = pool_of(answer.descriptor_set)
    methods = pool.FindServiceByName(service).methods_by_name
    if name not in methods:
        known = ", ".join(sorted(methods))
        raise Stop(Exit.NOT_FOUND, f"{service} has no method {name}; it has {known}")
    return Method(pool, methods[name])


def read_text(argument: str) -> str:
    """JSON from the command line: itself, @FILE, or - for stdin."""
    if argument == "-":
        return sys.stdin.read()
    if argument.startswith("@"):
        try:
            return Path(argument[1:]).read_text()
        except OSError as error:
            raise Stop(Exit.USAGE, f"{argument[1:]}: {error.strerror}") from error
    return argument
