"""Where workers can be called directly: endpoints that come, go and are withdrawn.

Not the directory: that says who is attached. A worker that the broker lost, or a broker that is
away, says nothing of the worker's own port, so an endpoint outlives both for a while. Callers see
by themselves whether anybody listens there; what must be quick is only a withdrawal. Yet where a
version has lost all its workers, others get its calls at once.
"""

import ipaddress
from dataclasses import dataclass, replace

from plait_scheduler.domain.events import Event, Figures, WorkerAttached, WorkerDetached

# A worker that crashed is kept so long. Its stream may also have ended with the broker's, and then
# it comes back within the SDKs' longest pause between attempts, 5 s.
LOST_MS = 6_000
# After the broker came back, so long for those that have not attached again.
RETURN_MS = 30_000


@dataclass(frozen=True, slots=True)
class Address:
    """Where a worker listens. An address and not a name: gRPC's clients resolve none here."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A worker that can be called."""

    worker: str
    address: Address
    # Version of its program.
    version: str
    # Full method paths, sorted.
    methods: tuple[str, ...]
    # Whether the broker has lost its worker. It may be there all the same, as the last resort.
    lost: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    endpoint: Endpoint
    # When it is forgotten; None while its worker is attached, or the broker is away.
    until_ms: int | None = None
    # Whether it was told in the observation of now.
    told: bool = True


class Endpoints:
    """The endpoints by worker."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._complete = False
        self._settled = False

    @property
    def complete(self) -> bool:
        """Whether everything that is attached was told once: before, nothing can be said of a
        service that has no endpoint.
        """
        return self._complete

    def reset(self) -> None:
        """A new observation begins. All stay until those that are attached have been told."""
        self._settled = False
        self._known = {
            worker: replace(known, until_ms=None, told=False)
            for worker, known in self._known.items()
        }

    def apply(self, event: Event, now_ms: int) -> bool:
        """Takes in what happened. Answers whether there is something new to publish."""
        match event:
            case WorkerAttached():
                return self._attach(event)
            case WorkerDetached():
                known = self._known.get(event.worker)
                if known is None:
                    return False
                lost = replace(known.endpoint, lost=True)
                self._known[event.worker] = _Known(lost, now_ms + LOST_MS)
                return True
            case Figures():
                return self._pass(now_ms)
            case _:
                return False

    def all(self) -> list[Endpoint]:
        """By address, so that equal states are equal lists."""
        found = [known.endpoint for known in self._known.values()]
        return sorted(found, key=lambda each: (each.address.host, each.address.port))

    def _attach(self, event: WorkerAttached) -> bool:
        before = self._known.pop(event.worker, None)
        address = parse(event.endpoint)
        if address is None:
            return before is not None
        # A process that took over an address: the one before it does not listen there any more.
        taken = [w for w, known in self._known.items() if known.endpoint.address == address]
        for worker in taken:
            del self._known[worker]
        methods = sorted({_method(route) for route in event.methods})
        endpoint = Endpoint(event.worker, address, event.version, tuple(methods))
        self._known[event.worker] = _Known(endpoint)
        return before is None or bool(taken) or before.endpoint != endpoint

    def _pass(self, now_ms: int) -> bool:
        """Figures come about once a second, and after everybody who is attached was told."""
        first = not self._settled
        self._complete = True
        if first:
            self._settled = True
            self._known = {
                worker: known if known.told else replace(known, until_ms=now_ms + RETURN_MS)
                for worker, known in self._known.items()
            }
        kept = {
            worker: known
            for worker, known in self._known.items()
            if known.until_ms is None or known.until_ms > now_ms
        }
        changed = len(kept) < len(self._known)
        self._known = kept
        return first or changed


def _method(route: str) -> str:
    """The path that is called. A worker may serve a method under routes of its own, "path@number",
    which are for tasks.
    """
    return route.partition("@")[0]


def parse(text: str) -> Address | None:
    """The address in "host:port"; None for nothing, and for what cannot be called: a name, or the
    unspecified address.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if address.is_unspecified else Address(str(address), int(port))
