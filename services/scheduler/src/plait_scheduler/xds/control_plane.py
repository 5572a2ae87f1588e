"""What all streams share: the picture of the mesh, what clients took and rejected, the alarms."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from plait_scheduler.domain.acceptance import Acceptance
from plait_scheduler.domain.client_kind import ClientKind, lacks
from plait_scheduler.domain.mesh import Mesh
from plait_scheduler.xds.resources import CLUSTERS, LISTENERS, ROUTES, Resource, Resources
from plait_scheduler.xds.subscription import Answered, Subscription

# Rejections that are shown; the log has them all.
REJECTIONS_MAX: Final = 100
_TEXT_MAX: Final = 1000
_HELD_BACK: Final = frozenset({LISTENERS, ROUTES, CLUSTERS})

_Key: TypeAlias = tuple[ClientKind, str, str]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A client did not take what it was sent (a NACK)."""

    time_ms: int
    node: str
    kind: ClientKind
    type_url: str
    names: tuple[str, ...]
    error: str


@dataclass(slots=True, eq=False)
class Client:
    """An open stream."""

    subscription: Subscription = field(default_factory=Subscription)
    # Set when there may be something to tell it.
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class ControlPlane:
    """The one picture that every client is shown, in its own dialect."""

    def __init__(self) -> None:
        self.clients: set[Client] = set()
        self.rejections: deque[Rejection] = deque(maxlen=REJECTIONS_MAX)
        # Since this process began.
        self.rejected = 0
        # Set while this scheduler is not the one to ask.
        self.closed = False
        # The address of the one to ask then; "": not known.
        self.leader = ""
        self._resources: Resources | None = None
        self._acceptance: Acceptance[_Key, Resource] = Acceptance()
        self._warned: set[ClientKind] = set()
        self._log = structlog.get_logger("xds")

    def publish(self, mesh: Mesh) -> None:
        """Shows this picture from now on."""
        self.closed = False
        self._resources = resources = Resources(mesh)
        names = resources.names()
        keys = {(kind, url, name) for kind in ClientKind for url in _HELD_BACK for name in names}
        self._acceptance.forget(keys)
        self._wake()

    def close(self, leader: str = "") -> None:
        """Ends every stream: clients keep what they have, and ask again until somebody answers. One
        that knows several schedulers asks the next.
        """
        self.closed, self.leader = True, leader
        self._wake()

    def choose(self, kind: ClientKind, type_url: str, name: str) -> Resource | None:
        """What a client of this kind is to have of a name; None before the first picture."""
        if self._resources is None:
            return None
        found = self._resources.find(kind, type_url, name)
        if found is None or type_url not in _HELD_BACK:
            return found
        return self._acceptance.choose((kind, type_url, name), found)

    def answered(self, client: Client, answer: Answered, now_ms: int) -> None:
        """A client took what it was sent, or did not."""
        subscription = client.subscription
        self._warn(subscription.kind)
        about = {
            (subscription.kind, answer.type_url, each.name): each
            for each in answer.resources
            if answer.type_url in _HELD_BACK and self._is_ours(each.name)
        }
        if answer.error is None:
            self._acceptance.accept(about)
            return
        self._acceptance.reject(about)
        names = tuple(each.name for each in answer.resources)
        rejection = Rejection(
            now_ms,
            subscription.node,
            subscription.kind,
            answer.type_url,
            names,
            answer.error[:_TEXT_MAX],
        )
        self.rejections.append(rejection)
        self.rejected += 1
        self._log.error(
            "configuration.rejected",
            node=rejection.node,
            type=rejection.type_url.rpartition(".")[2],
            names=names,
            error=rejection.error,
            held_back=sorted({name for _, _, name in about}),
        )
        self._wake()

    def _is_ours(self, name: str) -> bool:
        return self._resources is not None and name in self._resources.names()

    def _warn(self, kind: ClientKind) -> None:
        """A client ignores what it cannot do without a word, so somebody has to say it. Once."""
        missing = lacks(kind)
        if missing and kind not in self._warned:
            self._warned.add(kind)
            self._log.warning(
                "client.limited", kind=kind.value, ignores=sorted(each.value for each in missing)
            )

    def _wake(self) -> None:
        for client in self.clients:
            client.wake.set()
