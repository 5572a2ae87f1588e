"""The mesh in Envoy's words: a listener, routes, clusters and endpoints for each service."""

import hashlib
from dataclasses import dataclass
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import UInt32Value

from plait_scheduler.broker.times import to_duration
from plait_scheduler.domain.call_fault import CallFault
from plait_scheduler.domain.call_policy import (
    EJECTED_PERCENT_MAX,
    EJECTION_HOSTS_MIN,
    CallPolicy,
    CallRetry,
    Outlier,
)
from plait_scheduler.domain.client_kind import ClientKind, Feature, is_told
from plait_scheduler.domain.mesh import Cluster, Mesh, Route, Service, service_of
from plait_xds import (
    cluster_pb2,
    core_pb2,
    endpoint_pb2,
    fault_pb2,
    listener_pb2,
    percent_pb2,
    route_pb2,
    router_pb2,
)
from plait_xds import http_connection_manager_pb2 as hcm_pb2

_PREFIX = "type.googleapis.com/"
LISTENERS: Final = _PREFIX + listener_pb2.Listener.DESCRIPTOR.full_name
ROUTES: Final = _PREFIX + route_pb2.RouteConfiguration.DESCRIPTOR.full_name
CLUSTERS: Final = _PREFIX + cluster_pb2.Cluster.DESCRIPTOR.full_name
ENDPOINTS: Final = _PREFIX + endpoint_pb2.ClusterLoadAssignment.DESCRIPTOR.full_name

# The only one there is so far. Clients ask for one to be named.
_LOCALITY: Final = core_pb2.Locality(region="plait", zone="mesh")
_ADS: Final = core_pb2.ConfigSource(
    ads=core_pb2.AggregatedConfigSource(), resource_api_version=core_pb2.V3
)
# The name by which routes say what a filter is to do.
_FAULT: Final = "fault"
# Of a digest, in hexadecimal digits.
_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as it is sent."""

    name: str
    body: Any
    # A digest of its content.
    version: str


class Resources:
    """The resources of one picture of the mesh, each made once for each kind of client."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._made: dict[tuple[ClientKind, str, str], Resource] = {}

    def find(self, kind: ClientKind, type_url: str, name: str) -> Resource | None:
        """A resource by its name, as a client of this kind is to have it. None: there is none, and
        a client may conclude so after a while.
        """
        key = (kind, type_url, name)
        if found := self._made.get(key):
            return found
        made = self._make(kind, type_url, name)
        # Clients ask for whatever they like; only what there is is kept.
        if made is not None and service_of(name) in self._mesh.services:
            self._made[key] = made
        return made

    def names(self) -> set[str]:
        """Services and clusters that there are."""
        services = self._mesh.services
        return {*services} | {each.name for one in services.values() for each in one.clusters}

    def _make(self, kind: ClientKind, type_url: str, name: str) -> Resource | None:
        if type_url in (CLUSTERS, ENDPOINTS):
            cluster = self._mesh.cluster(name)
            if cluster is None:
                return None
            build = _cluster if type_url == CLUSTERS else _endpoints
            return _resource(name, build(cluster))
        service = self._mesh.services.get(name)
        if type_url == LISTENERS:
            return _resource(name, _listener(service, kind) if service else _nobody(name, kind))
        if type_url == ROUTES and service:
            return _resource(name, _routes(service, kind))
        return None


def _resource(name: str, message: Message) -> Resource:
    body = _packed(message)
    return Resource(name, body, hashlib.sha256(body.value).hexdigest()[:_DIGITS])


def _listener(service: Service, kind: ClientKind) -> listener_pb2.Listener:
    rds = hcm_pb2.Rds(config_source=_ADS, route_config_name=service.name)
    filters = _filters(faulty=_is_faulty(service, kind))
    return _api_listener(service.name, hcm_pb2.HttpConnectionManager(rds=rds, http_filters=filters))


def _nobody(name: str, kind: ClientKind) -> listener_pb2.Listener:
    """A listener without routes, so that callers of a service that nobody serves fail in
    milliseconds. Without one they wait 15 s for it.
    """
    empty = route_pb2.RouteConfiguration(name=name)
    if kind is ClientKind.NODE:
        # Calls of grpc-js wait for ever where no host is theirs, and fail where no route is.
        empty.virtual_hosts.add(name=name, domains=["*"])
    manager = hcm_pb2.HttpConnectionManager(route_config=empty, http_filters=_filters())
    return _api_listener(name, manager)


def _api_listener(name: str, manager: hcm_pb2.HttpConnectionManager) -> listener_pb2.Listener:
    return listener_pb2.Listener(
        name=name, api_listener=listener_pb2.ApiListener(api_listener=_packed(manager))
    )


def _filters(*, faulty: bool = False) -> list[hcm_pb2.HttpFilter]:
    """What every call passes through. Where no method has a fault there is no filter for one, so
    that nobody has it in the way who does not want it.
    """
    router = hcm_pb2.HttpFilter(name="router", typed_config=_packed(router_pb2.Router()))
    if not faulty:
        return [router]
    nothing = _packed(fault_pb2.HTTPFault())
    return [hcm_pb2.HttpFilter(name=_FAULT, typed_config=nothing, is_optional=True), router]


def _is_faulty(service: Service, kind: ClientKind) -> bool:
    told = is_told(kind, Feature.FAULT)
    return told and any(each.fault is not None for each in service.routes)


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message, deterministic=True)
    return packed


def _routes(service: Service, kind: ClientKind) -> route_pb2.RouteConfiguration:
    filters = _filters(faulty=_is_faulty(service, kind))
    text = b"".join(each.SerializeToString(deterministic=True) for each in filters)
    digest = hashlib.sha256(text).hexdigest()[:_DIGITS]
    # grpc-js looks at the filters of a changed listener only when the routes changed as well.
    host = route_pb2.VirtualHost(name=f"{service.name}~{digest}", domains=["*"])
    host.routes.extend(_route(each, kind) for each in service.routes)
    return route_pb2.RouteConfiguration(name=service.name, virtual_hosts=[host])


def _route(route: Route, kind: ClientKind) -> route_pb2.Route:
    action = route_pb2.RouteAction()
    if len(route.weights) == 1:
        action.cluster = route.weights[0][0]
    else:
        for name, weight in route.weights:
            action.weighted_clusters.clusters.add(name=name, weight=UInt32Value(value=weight))
    _say(action, route.policy, kind)
    made = route_pb2.Route(
        name=route.method, match=route_pb2.RouteMatch(path=route.method), route=action
    )
    if route.fault is not None and is_told(kind, Feature.FAULT):
        made.typed_per_filter_config[_FAULT].CopyFrom(_packed(_fault(route.fault)))
    return made


def _fault(fault: CallFault) -> fault_pb2.HTTPFault:
    message = fault_pb2.HTTPFault()
    if fault.abort is not None:
        message.abort.grpc_status = fault.abort.code
        message.abort.percentage.CopyFrom(_millionths(fault.abort.share))
    if fault.delay is not None:
        message.delay.fixed_delay.CopyFrom(to_duration(fault.delay.delay_ms))
        message.delay.percentage.CopyFrom(_millionths(fault.delay.share))
    return message


def _millionths(share: int) -> percent_pb2.FractionalPercent:
    return percent_pb2.FractionalPercent(
        numerator=share, denominator=percent_pb2.FractionalPercent.MILLION
    )


def _say(action: route_pb2.RouteAction, policy: CallPolicy, kind: ClientKind) -> None:
    if is_told(kind, Feature.TIMEOUT):
        timeout = to_duration(policy.timeout_ms)
        action.max_stream_duration.max_stream_duration.CopyFrom(timeout)
    if policy.retry is not None and is_told(kind, Feature.RETRY):
        action.retry_policy.CopyFrom(_retry(policy.retry))


def _retry(retry: CallRetry) -> route_pb2.RetryPolicy:
    return route_pb2.RetryPolicy(
        retry_on=",".join(retry.on),
        num_retries=UInt32Value(value=retry.max_attempts - 1),
        retry_back_off=route_pb2.RetryPolicy.RetryBackOff(
            base_interval=to_duration(retry.initial_backoff_ms),
            max_interval=to_duration(retry.max_backoff_ms),
        ),
    )


def _cluster(cluster: Cluster) -> cluster_pb2.Cluster:
    message = cluster_pb2.Cluster(
        name=cluster.name,
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(
            eds_config=_ADS, service_name=cluster.name
        ),
        # The one policy that every client has.
        lb_policy=cluster_pb2.Cluster.ROUND_ROBIN,
        # Reports come back to this server. Java's circuit breaking needs it, too.
        lrs_server=core_pb2.ConfigSource(
            self=core_pb2.SelfConfigSource(), resource_api_version=core_pb2.V3
        ),
    )
    message.circuit_breakers.thresholds.add(
        priority=core_pb2.DEFAULT, max_requests=UInt32Value(value=cluster.policy.requests_max)
    )
    if cluster.policy.outlier is not None:
        message.outlier_detection.CopyFrom(_outlier(cluster.policy.outlier))
    return message


def _outlier(outlier: Outlier) -> cluster_pb2.OutlierDetection:
    return cluster_pb2.OutlierDetection(
        interval=to_duration(outlier.interval_ms),
        base_ejection_time=to_duration(outlier.base_ejection_ms),
        max_ejection_time=to_duration(outlier.max_ejection_ms),
        max_ejection_percent=UInt32Value(value=EJECTED_PERCENT_MAX),
        enforcing_success_rate=UInt32Value(value=0),
        failure_percentage_threshold=UInt32Value(value=outlier.failure_percent),
        enforcing_failure_percentage=UInt32Value(value=100),
        failure_percentage_minimum_hosts=UInt32Value(value=EJECTION_HOSTS_MIN),
        failure_percentage_request_volume=UInt32Value(value=outlier.volume_min),
    )


def _endpoints(cluster: Cluster) -> endpoint_pb2.ClusterLoadAssignment:
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=cluster.name)
    if not cluster.addresses:
        return assignment
    locality = assignment.endpoints.add(
        locality=_LOCALITY, load_balancing_weight=UInt32Value(value=1)
    )
    for address in cluster.addresses:
        endpoint = locality.lb_endpoints.add(
            health_status=core_pb2.HEALTHY, load_balancing_weight=UInt32Value(value=1)
        )
        socket = endpoint.endpoint.address.socket_address
        socket.address, socket.port_value = address.host, address.port
    return assignment
