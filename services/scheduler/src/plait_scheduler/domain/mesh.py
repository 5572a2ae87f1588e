"""What may be called, and how: services, their methods, and the workers of each version.

Pure: endpoints and policies in, a picture out. How it is told to gRPC's clients is in `xds`.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from plait_scheduler.domain.call_fault import CallFault
from plait_scheduler.domain.call_policy import (
    CallPolicy,
    ClusterPolicy,
    call_policy,
    cluster_policy,
)
from plait_scheduler.domain.endpoints import Address, Endpoint
from plait_scheduler.domain.policy import MethodPolicy

# Separates the service from the version in the name of a cluster. In no name of a service.
AT = "@"
_PLAIN = re.compile(r"[A-Za-z0-9._+-]{0,64}", re.ASCII)
# Of a digest, in hexadecimal digits: names must differ, nobody attacks them.
_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers of one service, one version and one set of methods: any of them will do."""

    name: str
    addresses: tuple[Address, ...]
    policy: ClusterPolicy


@dataclass(frozen=True, slots=True)
class Route:
    """Where calls of a method go."""

    # "/package.Service/Method".
    method: str
    # Clusters and their shares, by name.
    weights: tuple[tuple[str, int], ...]
    policy: CallPolicy
    # What an operator makes of them.
    fault: CallFault | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A service that somebody serves."""

    name: str
    # By method.
    routes: tuple[Route, ...]
    # By name.
    clusters: tuple[Cluster, ...]


@dataclass(frozen=True, slots=True)
class Mesh:
    """Everything that may be called now."""

    services: Mapping[str, Service] = field(default_factory=dict)

    def cluster(self, name: str) -> Cluster | None:
        """A cluster by its name. One of a service that is served is never unknown: a client may
        still route to workers that have just gone, and is to find nobody rather than an error.
        """
        service_name, at, _ = name.partition(AT)
        if not at:
            return None
        service = self.services.get(service_name)
        for cluster in service.clusters if service else ():
            if cluster.name == name:
                return cluster
        return Cluster(name, (), ClusterPolicy())


def service_of(name: str) -> str:
    """The service that the name of a cluster, or of a service, is about."""
    return name.partition(AT)[0]


def services_of(endpoints: Iterable[Endpoint]) -> set[str]:
    """The services that the endpoints serve."""
    return {_service(method) for each in endpoints for method in each.methods}


def build(
    endpoints: Sequence[Endpoint],
    policies: Mapping[str, Sequence[MethodPolicy]],
    faults: Mapping[str, CallFault] = MappingProxyType({}),
) -> Mesh:
    """The picture of these endpoints. `policies` by service; defaults for what it lacks. `faults`
    by method.
    """
    names = sorted(services_of(endpoints))
    return Mesh({name: _build(name, endpoints, policies.get(name, ()), faults) for name in names})


def _build(
    service: str,
    endpoints: Sequence[Endpoint],
    policies: Sequence[MethodPolicy],
    faults: Mapping[str, CallFault],
) -> Service:
    members: dict[str, list[Endpoint]] = {}
    methods: dict[str, tuple[str, ...]] = {}
    for each in endpoints:
        served = tuple(method for method in each.methods if _service(method) == service)
        if served:
            name = cluster_name(service, each.version, served)
            members.setdefault(name, []).append(each)
            methods[name] = served
    by_method = {policy.method: policy for policy in policies}
    shared = cluster_policy(policies)
    clusters = tuple(
        Cluster(name, tuple(each.address for each in members[name]), shared)
        for name in sorted(members)
    )
    routes = tuple(
        Route(
            method,
            _weights({name: found for name, found in members.items() if method in methods[name]}),
            call_policy(by_method[method]) if method in by_method else CallPolicy(),
            faults.get(method),
        )
        for method in sorted({method for served in methods.values() for method in served})
    )
    return Service(service, routes, clusters)


def _weights(members: Mapping[str, Sequence[Endpoint]]) -> tuple[tuple[str, int], ...]:
    """Each worker gets an equal share, whatever its version; those that are lost get none, unless
    there are no others.
    """
    there = {name: sum(not each.lost for each in found) for name, found in members.items()}
    if not any(there.values()):
        there = {name: len(found) for name, found in members.items()}
    return tuple((name, count) for name, count in sorted(there.items()) if count)


def cluster_name(service: str, version: str, methods: Sequence[str]) -> str:
    """Names workers that are alike. The methods are part of it: a version may serve some here and
    others there, and a call must not meet a worker that does not know it.
    """
    return version_prefix(service, version) + _digest(*methods)


def version_prefix(service: str, version: str) -> str:
    """What the names of all clusters of a version begin with, and no others'."""
    plain = version if _PLAIN.fullmatch(version) else _digest(version)
    return f"{service}{AT}{plain}~"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:_DIGITS]


def _service(method: str) -> str:
    """The service in "/package.Service/Method"."""
    return method.lstrip("/").rpartition("/")[0]
