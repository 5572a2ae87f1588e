"""What clients say became of their direct calls, and which side of a rollout it is about.

Clients tell it by cluster, so by service, version and set of methods, and not by method.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from plait_scheduler.domain.mesh import service_of, version_prefix


@dataclass(frozen=True, slots=True)
class Load:
    """Calls to one cluster, each attempt of a call for itself."""

    # Begun.
    issued: int = 0
    succeeded: int = 0
    # With any status but OK, CANCELLED among them.
    failed: int = 0
    # Refused by the client's own circuit breaker, since too many were under way.
    dropped: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(
            self.issued + other.issued,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.dropped + other.dropped,
        )

    @property
    def ended(self) -> int:
        """Those whose end is known. One that was dropped failed to its caller."""
        return self.succeeded + self.failed + self.dropped

    @property
    def ended_badly(self) -> int:
        """Of those."""
        return self.failed + self.dropped


@dataclass(frozen=True, slots=True)
class SideLoads:
    """Calls to a version and to all others."""

    own: Load = Load()
    others: Load = Load()


def sides(loads: Mapping[str, Load], versions: Mapping[str, str]) -> dict[str, SideLoads]:
    """The loads of clusters by service, for services of which a version is looked at."""
    found: dict[str, SideLoads] = {}
    for cluster, load in loads.items():
        service = service_of(cluster)
        version = versions.get(service)
        if version is None:
            continue
        known = found.get(service, SideLoads())
        if cluster.startswith(version_prefix(service, version)):
            found[service] = SideLoads(known.own + load, known.others)
        else:
            found[service] = SideLoads(known.own, known.others + load)
    return found
