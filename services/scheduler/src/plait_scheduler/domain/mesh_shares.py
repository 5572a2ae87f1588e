"""Direct calls in the shares of rollouts: the weights of clusters whose service is split.

A call is for a version by chance and not by a key: where a call goes, its own client decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from plait_scheduler.domain.call_policy import CallPolicy
from plait_scheduler.domain.endpoints import Endpoint
from plait_scheduler.domain.mesh import Mesh, Route, Service, cluster_name
from plait_scheduler.domain.rollout import WHOLE, Split
from plait_scheduler.domain.routes import service_of

# So that the workers of a side can have equal parts of a share.
_PARTS = 100


def shared(mesh: Mesh, endpoints: Sequence[Endpoint], splits: Mapping[str, Split]) -> Mesh:
    """The picture with the shares of these splits, by service."""
    services = dict(mesh.services)
    for name in services.keys() & splits.keys():
        own = _clusters_of(name, endpoints, splits[name].version)
        services[name] = _shared(services[name], own, splits[name].share)
    return replace(mesh, services=services)


def _clusters_of(service: str, endpoints: Sequence[Endpoint], version: str) -> set[str]:
    """Names of the clusters of a version."""
    found = set()
    for each in endpoints:
        served = tuple(method for method in each.methods if service_of(method) == service)
        if served and each.version == version:
            found.add(cluster_name(service, version, served))
    return found


def _shared(service: Service, own: set[str], share: int) -> Service:
    routes = tuple(_route(route, own, share) for route in service.routes)
    before = {name for route in service.routes for name, _ in route.weights}
    idle = before - {name for route in routes for name, _ in route.weights}
    if idle:
        routes = (*routes, _kept(service.name, idle))
    return replace(service, routes=routes)


def _kept(service: str, clusters: set[str]) -> Route:
    """A route that no method has, to clusters without a share. Callers keep them, so that a call
    finds them when they get one: grpc-go fails calls to a cluster that it has just been told of.
    """
    weights = tuple((name, 1) for name in sorted(clusters))
    return Route(f"/{service}/", weights, CallPolicy())


def _route(route: Route, own: set[str], share: int) -> Route:
    """A side that nobody is on leaves everything to the other one, whatever the shares: a call
    cannot wait for it.
    """
    mine = {name: count for name, count in route.weights if name in own}
    others = {name: count for name, count in route.weights if name not in own}
    if not mine or not others:
        return route
    weights = {**_parts(mine, share), **_parts(others, WHOLE - share)}
    return replace(route, weights=tuple(sorted(weights.items())))


def _parts(counts: Mapping[str, int], share: int) -> dict[str, int]:
    """A share among the clusters of a side, by their workers."""
    total = sum(counts.values())
    parts = {name: share * _PARTS * count // total for name, count in counts.items()}
    return {name: max(1, part) for name, part in parts.items() if share}
