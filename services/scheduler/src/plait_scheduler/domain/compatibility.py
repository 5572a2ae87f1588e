"""What changes when a contract takes the place of the one in force.

Requests and results of tasks outlive a deploy, and so must be readable under the new contract; keys
of tasks in flight were taken by the old key paths; and people and tools speak to methods in JSON.
Whether tasks in flight are concerned is for `domain/work.py` to say.
"""

from collections.abc import Iterator
from dataclasses import replace

from plait_scheduler.domain.change import Change, Effect, Look
from plait_scheduler.domain.contract import Contract, MethodShape, ServiceShape
from plait_scheduler.domain.message_changes import message_changes
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.domain.policy_changes import DRAIN, policy_changes
from plait_scheduler.domain.policy_compiler import compile_contract

NEW_VERSION = "keep both: declare a new method, or a new version of the package"


def compare(old: Contract, new: Contract, service: str, known: bool = False) -> list[Change]:
    """Every change of a service that both declare.

    Known, the new one was in force before: it may come back, although what was added since is then
    gone again. What breaks bytes or tasks in flight is told all the same.
    """
    if old.digest == new.digest:
        return []
    before, after = _service(old, service), _service(new, service)
    changes = [
        *_methods(before, after),
        *_policies(old, new, before, after),
        *_messages(old, new, before, after),
    ]
    if not known:
        return changes
    return [
        replace(change, effect=Effect.HARMLESS, advice="") if change.reversible else change
        for change in changes
    ]


def _service(contract: Contract, name: str) -> ServiceShape:
    return next(service for service in contract.services if service.name == name)


def _methods(old: ServiceShape, new: ServiceShape) -> Iterator[Change]:
    """Methods that come and go, and their types."""
    now = {method.name: method for method in new.methods}
    for method in old.methods:
        if method.streaming:
            continue
        look = Look((old.path(method),))
        subject = f"{old.name}.{method.name}"
        after = now.get(method.name)
        if after is None or after.streaming:
            gone = "is gone" if after is None else "streams now, and so is no task"
            advice = f"{DRAIN}; or keep the method until then"
            yield Change("METHOD_REMOVED", subject, gone, Effect.NEEDS_DRAIN, advice, look)
            continue
        for part, before, after_type in (
            ("request", method.request, after.request),
            ("response", method.response, after.response),
        ):
            if before != after_type:
                kind = f"{part.upper()}_TYPE_CHANGED"
                text = f"the {part} was {before} and is {after_type} now"
                yield Change(kind, subject, text, Effect.REFUSED, NEW_VERSION, look)
    known = {method.name for method in old.methods if not method.streaming}
    for method in new.methods:
        if method.name not in known and not method.streaming:
            yield Change("METHOD_ADDED", f"{new.name}.{method.name}", "is new")


def _policies(
    old: Contract, new: Contract, before: ServiceShape, after: ServiceShape
) -> Iterator[Change]:
    """What the options of both come to."""
    were, are = _compiled(old, before), _compiled(new, after)
    for method in _kept(before, after):
        subject, path = f"{before.name}.{method.name}", before.path(method)
        if path in were and path in are:
            yield from policy_changes(subject, were[path], are[path])
        else:
            text = "the policy in force is not one that this version of the scheduler accepts"
            look = Look((path,))
            yield Change("POLICY_UNKNOWN", subject, text, Effect.NEEDS_DRAIN, DRAIN, look)


def _compiled(contract: Contract, service: ServiceShape) -> dict[str, MethodPolicy]:
    only = replace(contract, services=(service,))
    return {policy.method: policy for policy in compile_contract(only).policies}


def _messages(
    old: Contract, new: Contract, before: ServiceShape, after: ServiceShape
) -> Iterator[Change]:
    """What becomes of the messages that the methods of both reach, each told once."""
    methods: dict[str, list[str]] = {}
    for method in _kept(before, after):
        for name in old.reached(method.request, method.response):
            methods.setdefault(name, []).append(before.path(method))
    for name, paths in sorted(methods.items()):
        if name not in new.messages:
            continue
        for change in message_changes(old, new, name):
            yield replace(change, look=Look(tuple(paths))) if change.breaks_bytes else change


def _kept(before: ServiceShape, after: ServiceShape) -> Iterator[MethodShape]:
    """Methods that are tasks in both, as they were."""
    tasks = {method.name for method in after.methods if not method.streaming}
    for method in before.methods:
        if not method.streaming and method.name in tasks:
            yield method
