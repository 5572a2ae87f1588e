"""Which configuration clients have accepted, and what to send where one was rejected.

A client that rejects keeps what it had; a fresh one has nothing and cannot call. So a version that
anybody rejects is sent to nobody any more: all get the last one that all accepted. Endpoints are
no configuration and are never held back: an old list would send calls to workers that are gone.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Versioned(Protocol):
    """Something whose content has a version."""

    @property
    def version(self) -> str:
        """Equal for equal content."""
        ...


K = TypeVar("K")
R = TypeVar("R", bound=Versioned)

# Kept of one resource. Older ones may be tried again, which costs one rejection more.
REJECTED_MAX = 16
ACCEPTED_MAX = 2


@dataclass(slots=True)
class _History(Generic[R]):
    # Oldest first.
    accepted: deque[R] = field(default_factory=lambda: deque(maxlen=ACCEPTED_MAX))
    rejected: deque[str] = field(default_factory=lambda: deque(maxlen=REJECTED_MAX))


class Acceptance(Generic[K, R]):
    """What became of each version, by whatever names a resource."""

    def __init__(self) -> None:
        self._histories: dict[K, _History[R]] = {}

    def choose(self, key: K, candidate: R) -> R:
        """What to send: the candidate, or the last one that all accepted where it was rejected.
        Where there is none, the candidate: nobody is worse off.
        """
        history = self._histories.get(key)
        if history is None or candidate.version not in history.rejected:
            return candidate
        return history.accepted[-1] if history.accepted else candidate

    def accept(self, accepted: Mapping[K, R]) -> None:
        """A client took these."""
        for key, resource in accepted.items():
            history = self._histories.setdefault(key, _History())
            known = [each.version for each in history.accepted]
            if resource.version in history.rejected or resource.version in known[-1:]:
                continue
            if resource.version in known:
                history.accepted.remove(
                    next(each for each in history.accepted if each.version == resource.version)
                )
            history.accepted.append(resource)

    def reject(self, rejected: Mapping[K, R]) -> None:
        """A client did not take these."""
        for key, resource in rejected.items():
            history = self._histories.setdefault(key, _History())
            if resource.version not in history.rejected:
                history.rejected.append(resource.version)
            kept = [each for each in history.accepted if each.version != resource.version]
            history.accepted = deque(kept, maxlen=ACCEPTED_MAX)

    def forget(self, keep: set[K]) -> None:
        """Drops what is not kept, so that this is bounded by what there is."""
        for key in self._histories.keys() - keep:
            del self._histories[key]
