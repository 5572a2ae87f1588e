"""The scheduler's own port: health, directory, breakers, limits, reviews, rollouts, schedules,
shares, the control plane of direct calls and the signal that workers are scaled by; reflection in
development.
"""

from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

from plait.control.v1 import (
    breaker_service_pb2,
    breaker_service_pb2_grpc,
    contract_review_service_pb2,
    contract_review_service_pb2_grpc,
    directory_service_pb2,
    directory_service_pb2_grpc,
    fault_service_pb2,
    fault_service_pb2_grpc,
    limit_service_pb2,
    limit_service_pb2_grpc,
    rollout_service_pb2,
    rollout_service_pb2_grpc,
    share_service_pb2,
    share_service_pb2_grpc,
    supervisor_service_pb2,
    supervisor_service_pb2_grpc,
)
from plait.v1 import schedule_service_pb2, schedule_service_pb2_grpc
from plait_keda import external_scaler_pb2_grpc
from plait_scheduler.broker.rpc_spans import RpcTracerProvider
from plait_scheduler.servicers.breaker import BreakerServicer
from plait_scheduler.servicers.contract_review import ContractReviewServicer
from plait_scheduler.servicers.directory import DirectoryServicer
from plait_scheduler.servicers.external_scaler import ExternalScalerServicer
from plait_scheduler.servicers.fault import FaultServicer
from plait_scheduler.servicers.limit import LimitServicer
from plait_scheduler.servicers.rollout import RolloutServicer
from plait_scheduler.servicers.schedule import ScheduleServicer
from plait_scheduler.servicers.share import ShareServicer
from plait_scheduler.servicers.supervisor import SupervisorServicer
from plait_scheduler.xds.discovery import STREAMS_MAX, DiscoveryServicer
from plait_scheduler.xds.load import LoadServicer
from plait_xds import discovery_pb2_grpc, load_stats_pb2_grpc

BREAKERS = breaker_service_pb2.DESCRIPTOR.services_by_name["BreakerService"].full_name
DIRECTORY = directory_service_pb2.DESCRIPTOR.services_by_name["DirectoryService"].full_name
FAULTS = fault_service_pb2.DESCRIPTOR.services_by_name["FaultService"].full_name
LIMITS = limit_service_pb2.DESCRIPTOR.services_by_name["LimitService"].full_name
REVIEWS = contract_review_service_pb2.DESCRIPTOR.services_by_name["ContractReviewService"].full_name
ROLLOUTS = rollout_service_pb2.DESCRIPTOR.services_by_name["RolloutService"].full_name
SHARES = share_service_pb2.DESCRIPTOR.services_by_name["ShareService"].full_name
SUPERVISOR = supervisor_service_pb2.DESCRIPTOR.services_by_name["SupervisorService"].full_name
SCHEDULES = schedule_service_pb2.DESCRIPTOR.services_by_name["ScheduleService"].full_name
OURS = (BREAKERS, DIRECTORY, FAULTS, LIMITS, REVIEWS, ROLLOUTS, SCHEDULES, SHARES, SUPERVISOR)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

_OPTIONS = (
    # An idle peer may not hold more than this; the library has no limit of its own.
    ("grpc.max_concurrent_streams", 100),
    ("grpc.max_metadata_size", 16 * 1024),
    # A descriptor set, which the broker takes up to 1 MiB of, and the names of its services.
    ("grpc.max_receive_message_length", 2 * 1024 * 1024),
    # A port in use is an error, not a share.
    ("grpc.so_reuseport", 0),
)
# Each client of direct calls has a stream for what it is told and one for what it reports; the rest
# is for people and short.
_RPCS_MAX = 64 + 2 * STREAMS_MAX
_LONG_STREAMS = ("StreamAggregatedResources", "StreamLoadStats", "StreamIsActive")


@dataclass(frozen=True, slots=True)
class Servicers:
    """What is served."""

    directory: DirectoryServicer
    breakers: BreakerServicer
    reviews: ContractReviewServicer
    limits: LimitServicer
    shares: ShareServicer
    schedules: ScheduleServicer
    discovery: DiscoveryServicer
    load: LoadServicer
    scaler: ExternalScalerServicer
    supervisor: SupervisorServicer
    rollouts: RolloutServicer
    faults: FaultServicer


class Server:
    """NOT_SERVING until the broker is observed, and again while draining."""

    def __init__(self, servicers: Servicers, dev: bool) -> None:
        # Health checks are not worth a span, and the interceptor would break the stream of Watch,
        # which is no async generator (open-telemetry/opentelemetry-python-contrib#3066). A span of
        # a client's whole life tells nothing.
        left_out = [filters.method_name(name) for name in _LONG_STREAMS]
        spans = aio_server_interceptor(
            RpcTracerProvider(),
            filter_=filters.negate(filters.any_of(filters.health_check(), *left_out)),
        )
        self._server = grpc.aio.server(
            interceptors=[spans], options=_OPTIONS, maximum_concurrent_rpcs=_RPCS_MAX
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        directory_service_pb2_grpc.add_DirectoryServiceServicer_to_server(
            servicers.directory, self._server
        )
        breaker_service_pb2_grpc.add_BreakerServiceServicer_to_server(
            servicers.breakers, self._server
        )
        contract_review_service_pb2_grpc.add_ContractReviewServiceServicer_to_server(
            servicers.reviews, self._server
        )
        limit_service_pb2_grpc.add_LimitServiceServicer_to_server(servicers.limits, self._server)
        share_service_pb2_grpc.add_ShareServiceServicer_to_server(servicers.shares, self._server)
        schedule_service_pb2_grpc.add_ScheduleServiceServicer_to_server(
            servicers.schedules, self._server
        )
        discovery_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(
            servicers.discovery, self._server
        )
        load_stats_pb2_grpc.add_LoadReportingServiceServicer_to_server(servicers.load, self._server)
        external_scaler_pb2_grpc.add_ExternalScalerServicer_to_server(
            servicers.scaler, self._server
        )
        supervisor_service_pb2_grpc.add_SupervisorServiceServicer_to_server(
            servicers.supervisor, self._server
        )
        rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server(
            servicers.rollouts, self._server
        )
        fault_service_pb2_grpc.add_FaultServiceServicer_to_server(servicers.faults, self._server)
        if dev:
            health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
            names = [*OURS, health_name]
            reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], self._server)

    async def start(self, listen: str) -> str:
        """Binds and serves; returns the address with the port that it got. Raises RuntimeError for
        a port in use.
        """
        port = self._server.add_insecure_port(listen)
        await self.set_serving(False)
        await self._server.start()
        return f"{listen.rpartition(':')[0]}:{port}"

    async def set_serving(self, serving: bool) -> None:
        """What health checks are told from now on."""
        for name in ("", *OURS):
            await self._health.set(name, _SERVING if serving else _NOT_SERVING)

    async def drain(self) -> None:
        """NOT_SERVING from now on; calls under way go on."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_seconds: float) -> None:
        """Ends, after the calls under way or the grace."""
        await self._server.stop(grace_seconds)
