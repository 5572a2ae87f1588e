"""Routes: which workers take which tasks while several versions of a contract are served.

A task goes by the route of the contract that it was submitted under, and a worker serves the routes
whose tasks it can take: all that its contract knows every field of. So nothing that a submitter
said is dropped by a worker that does not know it. A method has one route as long as its messages
stay as they are.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from plait_scheduler.domain.contract import Contract, MessageShape, MethodShape, ServiceShape
from plait_scheduler.domain.message_changes import message_changes


@dataclass(frozen=True, slots=True)
class Route:
    """How tasks of one method find workers under one contract."""

    # What is reached from its request and response, as bytes see it: a SHA-256 in hexadecimal.
    shape: str
    # The route of its tasks: the method's path, or the path with "@" and a version.
    route: str
    # The routes that its workers serve, the oldest first.
    served: tuple[str, ...]


# By full method path.
Routes = Mapping[str, Route]


def method_of(route: str) -> str:
    """The method's path of a route."""
    return route.partition("@")[0]


def service_of(method: str) -> str:
    """The service of a method's path, or of a route."""
    return method.lstrip("/").rpartition("/")[0]


def assign(
    contract: Contract,
    service: ServiceShape,
    in_force: Contract | None,
    in_force_routes: Routes,
    earlier: Iterable[Routes],
    version: int,
) -> dict[str, Route]:
    """The routes of a service's methods under a contract.

    `in_force_routes` are those of the contract in force, `earlier` those of every other version
    that is known, and `version` numbers the routes that are new. Where a method's messages are
    those of a known version, so are its routes.
    """
    others = list(earlier)
    found = {}
    for method in _tasks(service):
        path, shape = service.path(method), shape_of(contract, method)
        known = [routes[path] for routes in (in_force_routes, *others) if path in routes]
        same = next((each for each in known if each.shape == shape), None)
        if same is not None:
            found[path] = same
            continue
        before = _method(in_force, path) if in_force else None
        if in_force is None or before is None:
            own = f"{path}@{version}" if known else path
            found[path] = Route(shape, own, (own,))
            continue
        now = in_force_routes.get(path) or Route(shape_of(in_force, before), path, (path,))
        found[path] = _beside(contract, method, in_force, before, now, shape, f"{path}@{version}")
    return found


def _beside(
    contract: Contract,
    method: MethodShape,
    in_force: Contract,
    before: MethodShape,
    now: Route,
    shape: str,
    own: str,
) -> Route:
    """The route of a method whose messages are new, beside the one in force."""
    if now.shape == shape:
        return now
    if covers(contract, method, in_force, before):
        return Route(shape, own, (*now.served, own))
    if covers(in_force, before, contract, method):
        # It is an older one that nobody has told of before: those in force do its tasks, and it can
        # do none of theirs.
        return Route(shape, now.route, (own,))
    return Route(shape, own, (own,))


def covers(new: Contract, reader: MethodShape, old: Contract, writer: MethodShape) -> bool:
    """Whether whoever has the method of `new` reads all that others write with that of `old`, and
    knows every field of it.
    """
    if (reader.request, reader.response) != (writer.request, writer.response):
        return False
    reached = old.reached(writer.request, writer.response)
    return all(
        name in new.messages and _knows(new, new.messages[name], old, message)
        for name, message in reached.items()
    )


def _knows(new: Contract, after: MessageShape, old: Contract, before: MessageShape) -> bool:
    numbers = {field.number for field in after.fields}
    if any(field.number not in numbers for field in before.fields):
        return False
    if any(change.breaks_bytes for change in message_changes(old, new, before.name)):
        return False
    return all(
        _values(old, field.type_name) <= _values(new, field.type_name) for field in before.fields
    )


def shape_of(contract: Contract, method: MethodShape) -> str:
    """What a method's request and response are made of, apart from names, which bytes have not."""
    reached = contract.reached(method.request, method.response)
    messages = [(name, sorted(_fields(contract, message))) for name, message in reached.items()]
    text = repr((method.request, method.response, sorted(messages)))
    return hashlib.sha256(text.encode()).hexdigest()


def _fields(contract: Contract, message: MessageShape) -> Iterator[tuple[object, ...]]:
    for field in message.fields:
        values = sorted(_values(contract, field.type_name))
        yield field.number, field.kind.name, field.repeated, field.type_name, field.oneof, values


def _values(contract: Contract, name: str) -> set[int]:
    """The numbers of an enum; none for other types."""
    enum = contract.enums.get(name)
    return {number for _, number in enum.values} if enum else set()


def _tasks(service: ServiceShape) -> Iterator[MethodShape]:
    return (method for method in service.methods if not method.streaming)


def _method(contract: Contract, path: str) -> MethodShape | None:
    found = (method for service, method in contract.unary() if service.path(method) == path)
    return next(found, None)
