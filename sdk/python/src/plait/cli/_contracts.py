"""The commands of `plait contract`."""

from collections.abc import Sequence
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

from plait import errors
from plait.cli import _limits, _protoc, _reviews
from plait.cli._api import Api, say
from plait.cli._command import Exit, Stop
from plait.cli._output import as_dict, duration
from plait.control.v1 import limit_service_pb2
from plait.v1 import contract_service_pb2

_COLUMNS = ("METHOD", "QUEUE", "DEADLINE", "ATTEMPT", "KEY", "ORDER")
_ALLOW = '`plait contract push --allow "reason"` overrides it, and the reason is kept'
_WHAT_TO_DO = f"`plait contract check` shows all of it; {_ALLOW}"


async def list_contracts(api: Api) -> Exit:
    """A line for each method."""
    found: list[contract_service_pb2.ContractSummary] = []
    token = ""
    while True:
        request = contract_service_pb2.ListContractsRequest(page_token=token)
        answer = await api.contracts.ListContracts(request, timeout=api.timeout)
        found += answer.contracts
        token = answer.next_page_token
        if not token:
            break
    methods = [method for each in found for method in each.methods]
    api.output.items("contracts", found, _COLUMNS, (_row(each) for each in methods))
    return Exit.OK


async def push(
    api: Api,
    files: Sequence[Path],
    includes: Sequence[Path],
    services: Sequence[str],
    *,
    reason: str | None,
) -> Exit:
    """Announces, to be in force whatever workers serve. With a reason, whatever it breaks."""
    if reason is not None and not reason.strip():
        raise Stop(Exit.USAGE, "--allow needs a reason, which is kept with the decision")
    request = _announcement(files, includes, services)
    request.replace = True
    if reason is not None:
        await _reviews.allow(api, request, reason)
    try:
        answer = await api.contracts.AnnounceContract(request, timeout=api.timeout)
    except grpc.aio.AioRpcError as error:
        if errors.reason(error) != errors.Reason.CONTRACT_INCOMPATIBLE:
            raise
        # Its message lists each problem; so do its details, which `describe` would add.
        reason_line = f"  reason: {errors.reason(error)}"
        text = "\n".join((error.details() or "", reason_line, _WHAT_TO_DO))
        raise Stop(Exit.CONFLICT, text) from error
    methods = list(answer.methods)
    api.output.items("methods", methods, _COLUMNS, (_row(each) for each in methods))
    return Exit.OK


async def check(
    api: Api, files: Sequence[Path], includes: Sequence[Path], services: Sequence[str]
) -> Exit:
    """Shows what would change, and what would be refused now."""
    answer = await _reviews.ask(api, _announcement(files, includes, services))
    api.output.item(answer, _reviews.review_text(answer))
    if answer.refused:
        raise Stop(Exit.CONFLICT, f"it would be refused now\n{_ALLOW}")
    if answer.tolerant and _reviews.is_breaking(answer):
        say("development tolerates what would be refused")
    return Exit.OK


async def show(api: Api, service: str) -> Exit:
    """What is in force, and how it came to be."""
    request = contract_service_pb2.GetContractRequest(service=service)
    contract = await api.contracts.GetContract(request, timeout=api.timeout)
    decision, *others = await _reviews.decisions(api, service)
    lines = [service, *_reviews.decision_lines(decision)]
    served = {each.version: each for each in others if each.workers}
    served.pop(decision.version, None)
    lines += [_reviews.beside_line(each) for _, each in sorted(served.items(), reverse=True)]
    limited = {each.method: each for each in await _limits.of_service(api, service)}
    lines += [_method_line(each.method, limited.get(each.method)) for each in contract.methods]
    value = {
        "service": service,
        "methods": [as_dict(each) for each in contract.methods],
        "limits": [as_dict(each) for each in limited.values()],
        "decision": as_dict(decision),
        "beside": [as_dict(each) for each in served.values()],
    }
    api.output.data(value, "\n".join(lines))
    return Exit.OK


def _method_line(method: str, limited: limit_service_pb2.LimitedMethod | None) -> str:
    """With its limits, where there are some."""
    name = method.lstrip("/")
    if limited is None or not (limited.HasField("override") or limited.in_force.ByteSize()):
        return f"  {name}"
    return f"  {_limits.line(limited)}"


def _announcement(
    files: Sequence[Path], includes: Sequence[Path], services: Sequence[str]
) -> contract_service_pb2.AnnounceContractRequest:
    """The services of the files that are wanted; all where none is named."""
    contract = read_files(files, includes)
    return contract_service_pb2.AnnounceContractRequest(
        descriptor_set=_without_well_known(contract),
        services=services_of(contract, files, includes, services),
    )


def services_of(
    contract: descriptor_pb2.FileDescriptorSet,
    files: Sequence[Path],
    includes: Sequence[Path],
    services: Sequence[str],
) -> list[str]:
    """The services that files declare and that are wanted; all where none is named."""
    own = {file.name for file in contract.file}
    if files[0].suffix == ".proto":
        # Not those that are only imported.
        own = {_protoc.import_name(file, includes) for file in files}
    declared = [
        f"{file.package}.{service.name}".lstrip(".")
        for file in contract.file
        for service in file.service
        if file.name in own
    ]
    wanted = list(services) or declared
    if not wanted:
        raise Stop(Exit.USAGE, "the files declare no service")
    if missing := set(wanted) - set(declared):
        raise Stop(Exit.NOT_FOUND, f"the files declare no {', '.join(sorted(missing))}")
    return wanted


def read_files(files: Sequence[Path], includes: Sequence[Path]) -> descriptor_pb2.FileDescriptorSet:
    """The descriptors of .proto files, or those that one file holds. Raises Stop for what is
    neither."""
    if all(file.suffix == ".proto" for file in files):
        return _protoc.compile_set(files, includes)
    if len(files) > 1:
        raise Stop(Exit.USAGE, "give .proto files, or one FileDescriptorSet")
    try:
        return descriptor_pb2.FileDescriptorSet.FromString(files[0].read_bytes())
    except DecodeError as error:
        raise Stop(Exit.USAGE, f"{files[0]} is no FileDescriptorSet: {error}") from error


def _without_well_known(contract: descriptor_pb2.FileDescriptorSet) -> bytes:
    made = descriptor_pb2.FileDescriptorSet()
    for file in contract.file:
        if not file.name.startswith("google/protobuf/"):
            made.file.append(file)
    return made.SerializeToString(deterministic=True)


def _row(info: contract_service_pb2.MethodInfo) -> tuple[str, ...]:
    return (
        info.method.lstrip("/"),
        info.queue,
        duration(info.deadline),
        duration(info.attempt_timeout),
        info.idempotency_key.path,
        info.ordering_key.path,
    )
