"""Announcing contracts as a worker does."""

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor

from plait.v1 import contract_service_pb2 as pb
from plait.v1 import contract_service_pb2_grpc as pb_grpc

ANNOUNCE_SECONDS = 15.0


def descriptor_set(file: FileDescriptor) -> bytes:
    """A file with its imports, imports first, without google/protobuf."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(descriptor: FileDescriptor) -> None:
        if descriptor.name in files or descriptor.name.startswith("google/protobuf/"):
            return
        for dependency in descriptor.dependencies:
            add(dependency)
        files[descriptor.name] = descriptor_pb2.FileDescriptorProto.FromString(
            descriptor.serialized_pb
        )

    add(file)
    return descriptor_pb2.FileDescriptorSet(file=files.values()).SerializeToString()


async def announce(
    address: str, contract: bytes, *services: str, validate_only: bool = False
) -> dict[str, pb.MethodInfo]:
    """Announces a contract and returns what is in force then, by method."""
    request = pb.AnnounceContractRequest(
        descriptor_set=contract,
        services=services,
        validate_only=validate_only,
        for_worker=True,
    )
    async with grpc.aio.insecure_channel(address) as channel:
        stub: pb_grpc.ContractServiceAsyncStub = pb_grpc.ContractServiceStub(channel)
        answer = await stub.AnnounceContract(request, timeout=ANNOUNCE_SECONDS)
    return {info.method: info for info in answer.methods}


async def resolve(address: str, *methods: str) -> dict[str, pb.MethodInfo]:
    """What is in force for methods."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: pb_grpc.ContractServiceAsyncStub = pb_grpc.ContractServiceStub(channel)
        request = pb.ResolveMethodsRequest(methods=methods)
        answer = await stub.ResolveMethods(request, timeout=ANNOUNCE_SECONDS)
    return {info.method: info for info in answer.methods}
