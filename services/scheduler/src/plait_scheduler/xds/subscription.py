"""One client's stream, without the stream: what it subscribed to, was sent, took and rejected."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from plait_scheduler.domain.client_kind import ClientKind, client_kind
from plait_scheduler.xds.resources import CLUSTERS, ENDPOINTS, LISTENERS, ROUTES, Resource
from plait_xds import discovery_pb2

# Make before break: what a route leads to is known before the route is.
ORDER: Final = (CLUSTERS, ENDPOINTS, LISTENERS, ROUTES)
# Of one type on one stream, and the characters of a name. A program calls some dozen services.
NAMES_MAX: Final = 2_000
NAME_MAX: Final = 512

Chooser = Callable[[ClientKind, str, str], Resource | None]


class SubscriptionError(ValueError):
    """A request that is beyond what is allowed. The text is for the client."""


@dataclass(slots=True)
class _Type:
    names: set[str] = field(default_factory=set)
    # Of the last response.
    nonce: str = ""
    # What the client has been told, by name.
    sent: dict[str, Resource] = field(default_factory=dict)
    # Versions that it took, by name.
    taken: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a client said of a response."""

    type_url: str
    # What it said it of: everything for an acceptance, the suspects for a rejection.
    resources: tuple[Resource, ...]
    # Why not; None: it took them.
    error: str | None = None


class Subscription:
    """What one client wants and has."""

    def __init__(self) -> None:
        self.kind = ClientKind.OTHER
        # For people: the node's id and its user agent.
        self.node = ""
        self._types: dict[str, _Type] = {}
        self._nonces = 0

    def take(self, request: discovery_pb2.DiscoveryRequest) -> Answered | None:
        """Takes a request in. Answers what it says of the last response. Raises
        SubscriptionError.
        """
        if request.HasField("node"):
            agent = request.node.user_agent_name
            self.kind = client_kind(agent, request.node.id)
            self.node = f"{request.node.id} {agent} {request.node.user_agent_version}"[:NAME_MAX]
        if request.type_url not in ORDER:
            # What is not known here is never there: an answer is not owed.
            return None
        names = set(request.resource_names)
        if len(names) > NAMES_MAX or any(len(name) > NAME_MAX for name in names):
            raise SubscriptionError(
                f"a client subscribes to at most {NAMES_MAX} names of {NAME_MAX} characters"
            )
        state = self._types.setdefault(request.type_url, _Type())
        # Also of a request with a stale nonce: its names are the newest that the client wants, and
        # nothing would tell of them again.
        state.names = names
        for gone in state.sent.keys() - names:
            del state.sent[gone]
        if not request.response_nonce or request.response_nonce != state.nonce:
            return None
        return self._answer(state, request)

    def due(self, choose: Chooser) -> Iterator[discovery_pb2.DiscoveryResponse]:
        """What the client is to be told now, in order."""
        for type_url in ORDER:
            state = self._types.get(type_url)
            if state is None or not state.names:
                continue
            found = {
                name: resource
                for name in sorted(state.names)
                if (resource := choose(self.kind, type_url, name)) is not None
            }
            if _versions(found) == _versions(state.sent) or not found:
                continue
            yield self._respond(type_url, state, found)

    def _respond(
        self, type_url: str, state: _Type, found: dict[str, Resource]
    ) -> discovery_pb2.DiscoveryResponse:
        self._nonces += 1
        state.nonce, state.sent = str(self._nonces), found
        return discovery_pb2.DiscoveryResponse(
            version_info=_together(found),
            type_url=type_url,
            nonce=state.nonce,
            resources=[resource.body for resource in found.values()],
        )

    def _answer(self, state: _Type, request: discovery_pb2.DiscoveryRequest) -> Answered:
        if not request.HasField("error_detail"):
            state.taken = _versions(state.sent)
            return Answered(request.type_url, tuple(state.sent.values()))
        new = [each for each in state.sent.values() if state.taken.get(each.name) != each.version]
        # A client names what it rejects, but not in a form that can be relied on.
        text = request.error_detail.message
        named = [each for each in new if each.name in text]
        return Answered(request.type_url, tuple(named or new), text)


def _versions(resources: dict[str, Resource]) -> dict[str, str]:
    return {name: resource.version for name, resource in resources.items()}


def _together(resources: dict[str, Resource]) -> str:
    """One version for all, by content: a scheduler that takes over says the same."""
    if len(resources) == 1:
        return next(iter(resources.values())).version
    text = "".join(f"{each.name} {each.version}\n" for each in resources.values())
    return hashlib.sha256(text.encode()).hexdigest()[:12]
