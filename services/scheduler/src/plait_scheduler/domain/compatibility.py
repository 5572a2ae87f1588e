"""Whether a contract may take the place of the one in force.

Requests and results of tasks outlive a deploy, and so must be readable under the new contract; keys
of tasks in flight were taken by the old key paths. What is checked is what breaks on the wire. What
may be added: methods, messages, fields under new numbers.
"""

from plait_scheduler.domain.contract import (
    Contract,
    FieldShape,
    Kind,
    MessageShape,
    MethodShape,
    ServiceShape,
)
from plait_scheduler.domain.violation import Problem

# Kinds of one group are read from one another's bytes without loss of the values that both have.
_GROUPS = (
    frozenset({Kind.INT32, Kind.INT64, Kind.UINT32, Kind.UINT64, Kind.BOOL, Kind.ENUM}),
    frozenset({Kind.SINT32, Kind.SINT64}),
    frozenset({Kind.FIXED32, Kind.SFIXED32}),
    frozenset({Kind.FIXED64, Kind.SFIXED64}),
    frozenset({Kind.STRING, Kind.BYTES}),
)
_KEYS = ("idempotency_key", "ordering_key", "rate_limit.key", "concurrency.key")


def compare(old: Contract, new: Contract, service: str) -> list[Problem]:
    """Every reason why `new` cannot take the place of `old` for a service that both declare."""
    if old.digest == new.digest:
        return []
    before, after = _service(old, service), _service(new, service)
    methods = {method.name: method for method in after.methods}
    problems: list[Problem] = []
    checked: set[str] = set()
    for method in before.methods:
        if method.streaming:
            continue
        now = methods.get(method.name)
        subject = f"{service}.{method.name}"
        if now is None or now.streaming:
            gone = "is gone" if now is None else "streams now, and so is no task"
            problems.append(
                Problem("METHOD_REMOVED", subject, f"{gone}; tasks of it may be unfinished")
            )
            continue
        problems += _types(subject, method, now)
        problems += _key_paths(subject, (before, method), (after, now))
        for name in (method.request, method.response):
            problems += _messages(name, old, new, checked)
    return problems


def _service(contract: Contract, name: str) -> ServiceShape:
    return next(service for service in contract.services if service.name == name)


def _types(subject: str, old: MethodShape, new: MethodShape) -> list[Problem]:
    """Changed types of request and response."""
    found = []
    if old.request != new.request:
        text = f"the request was {old.request} and is {new.request} now"
        found.append(Problem("REQUEST_TYPE_CHANGED", subject, text))
    if old.response != new.response:
        text = f"the response was {old.response} and is {new.response} now"
        found.append(Problem("RESPONSE_TYPE_CHANGED", subject, text))
    return found


def _key_paths(
    subject: str, old: tuple[ServiceShape, MethodShape], new: tuple[ServiceShape, MethodShape]
) -> list[Problem]:
    """Changed key paths. A submitter keeps what it resolved, so that also a key that is new would
    be missing.
    """
    found = []
    for key in _KEYS:
        before, after = _text(*old, key), _text(*new, key)
        if before != after:
            text = f"{key} was {_quoted(before)} and is {_quoted(after)} now"
            found.append(Problem("KEY_PATH_CHANGED", subject, text))
    return found


def _text(service: ServiceShape, method: MethodShape, key: str) -> str:
    """The key path in effect; "": none."""
    for option in (method.task, service.task_defaults):
        if option is not None and key in option.values:
            return str(option.values[key])
    return ""


def _quoted(path: str) -> str:
    return f'"{path}"' if path else "none"


def _messages(name: str, old: Contract, new: Contract, checked: set[str]) -> list[Problem]:
    """Wire-breaking changes of a message and of all that it reaches, each message once."""
    problems: list[Problem] = []
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name in checked or name not in old.messages or name not in new.messages:
            continue
        checked.add(name)
        before, after = old.messages[name], new.messages[name]
        problems += _fields(before, after)
        waiting += [field.type_name for field in before.fields if field.kind is Kind.MESSAGE]
    return problems


def _fields(old: MessageShape, new: MessageShape) -> list[Problem]:
    """Field numbers whose bytes mean something else now."""
    by_number = {field.number: field for field in new.fields}
    found = []
    for before in old.fields:
        after = by_number.get(before.number)
        if after is None:
            continue
        subject = f"{old.name}.{before.name}"
        if not _same_type(before, after):
            text = f"field {before.number} was {_type(before)} and is {_type(after)} now"
            found.append(Problem("FIELD_TYPE_CHANGED", subject, text))
        elif before.repeated != after.repeated:
            text = f"field {before.number} was {_label(before)} and is {_label(after)} now"
            found.append(Problem("FIELD_CARDINALITY_CHANGED", subject, text))
    return found


def _same_type(old: FieldShape, new: FieldShape) -> bool:
    if old.kind is new.kind:
        return old.kind not in (Kind.MESSAGE, Kind.GROUP) or old.type_name == new.type_name
    return any(old.kind in group and new.kind in group for group in _GROUPS)


def _type(field: FieldShape) -> str:
    named = field.kind in (Kind.MESSAGE, Kind.GROUP, Kind.ENUM)
    return f"{field.kind.value} {field.type_name}" if named else field.kind.value


def _label(field: FieldShape) -> str:
    if field.is_map:
        return "a map"
    return "repeated" if field.repeated else "singular"
