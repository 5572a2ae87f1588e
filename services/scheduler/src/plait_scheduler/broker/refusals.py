"""Refusals of contracts as google.rpc.Status. The message holds every reason, since it is what a
worker prints.
"""

from collections.abc import Sequence

import grpc
from google.rpc import error_details_pb2, status_pb2

from plait import errors
from plait_scheduler.domain.violation import Violation
from plait_scheduler.domain.words import sentence
from plait_scheduler.domain.work import Finding

# Message and details travel as trailers, for which gRPC libraries allow 8 KiB in all; each reason
# is in both.
PART_BYTES_MAX = 200
# Of a sentence that names tasks and what to do about them.
SENTENCE_BYTES_MAX = 600
REASONS_BYTES_MAX = 1500


def policy_invalid(services: Sequence[str], violations: Sequence[Violation]) -> status_pb2.Status:
    """INVALID_ARGUMENT with POLICY_INVALID and a BadRequest that names file, method and field of
    each fault.
    """
    request = error_details_pb2.BadRequest()
    texts = [f"{_cut(v.path)}: {_cut(v.description)}" for v in violations]
    for violation in violations[: _shown(texts)]:
        request.field_violations.add(
            field=_cut(violation.path), description=_cut(violation.description)
        )
    return errors.new_status(
        grpc.StatusCode.INVALID_ARGUMENT,
        errors.Reason.POLICY_INVALID,
        _message(f"the policies of {', '.join(services)} cannot hold", texts),
        {"services": _cut(",".join(services)), "violations": str(len(violations))},
        request,
    )


def contract_incompatible(
    services: Sequence[str], problems: Sequence[Finding]
) -> status_pb2.Status:
    """FAILED_PRECONDITION with CONTRACT_INCOMPATIBLE and a PreconditionFailure that lists each
    reason.
    """
    failure = error_details_pb2.PreconditionFailure()
    subjects = [_cut(problem.change.subject) for problem in problems]
    sentences = [_cut(sentence(problem), SENTENCE_BYTES_MAX) for problem in problems]
    texts = [": ".join(parts) for parts in zip(subjects, sentences, strict=True)]
    for index in range(_shown(texts)):
        failure.violations.add(
            type=problems[index].change.kind,
            subject=subjects[index],
            description=sentences[index],
        )
    return errors.new_status(
        grpc.StatusCode.FAILED_PRECONDITION,
        errors.Reason.CONTRACT_INCOMPATIBLE,
        _message(f"{', '.join(services)} cannot take the place of the contract in force", texts),
        {"services": _cut(",".join(services)), "problems": str(len(problems))},
        failure,
    )


def contract_unreadable(services: Sequence[str], description: str) -> status_pb2.Status:
    """INVALID_ARGUMENT with INVALID_REQUEST: the bytes are no contract of these services."""
    request = error_details_pb2.BadRequest()
    request.field_violations.add(field="descriptor_set", description=_cut(description))
    return errors.new_status(
        grpc.StatusCode.INVALID_ARGUMENT,
        errors.Reason.INVALID_REQUEST,
        _message(f"the contract of {', '.join(services)} cannot be read", [_cut(description)]),
        {"services": _cut(",".join(services))},
        request,
    )


def _message(head: str, texts: Sequence[str]) -> str:
    shown = _shown(texts)
    lines = [_cut(head) + ":", *(f"  {text}" for text in texts[:shown])]
    if len(texts) > shown:
        lines.append(f"  and {len(texts) - shown} more")
    return "\n".join(lines)


def _shown(texts: Sequence[str]) -> int:
    """How many reasons fit; at least one."""
    left = REASONS_BYTES_MAX
    for index, text in enumerate(texts):
        left -= len(text.encode())
        if left < 0:
            return index
    return len(texts)


def _cut(text: str, most: int = PART_BYTES_MAX) -> str:
    raw = text.encode()
    if len(raw) <= most:
        return text
    return raw[: most - 3].decode(errors="ignore") + "..."
