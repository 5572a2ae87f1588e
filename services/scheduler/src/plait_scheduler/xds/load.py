"""The load reporting service: what clients count of their calls, with nothing of ours in them."""

from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeAlias, TypeVar

import grpc

from plait_scheduler.broker.times import to_duration
from plait_scheduler.domain.call_load import Load
from plait_scheduler.domain.mesh import AT
from plait_xds import endpoint_pb2
from plait_xds import load_stats_pb2 as pb
from plait_xds import load_stats_pb2_grpc as pb_grpc

# How often a client reports.
REPORT_MS: Final = 1_000
STREAMS_MAX: Final = 2_000
# Clusters that are counted: more than there are, which bounds what a client can make up.
CLUSTERS_MAX: Final = 10_000

_Key = TypeVar("_Key", tuple[str, str], str)
_Context: TypeAlias = "grpc.aio.ServicerContext[pb.LoadStatsRequest, pb.LoadStatsResponse]"


class Loads:
    """What was reported since the scheduler began, by cluster and locality. A client reports what
    there is since its report before, so everything is counted once, over whichever stream it comes.

    Calls that were dropped have no locality, and stand with the one of the empty name.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], Load] = {}
        # By cluster, since somebody took them.
        self._fresh: dict[str, Load] = {}

    def add(self, reports: Iterable[endpoint_pb2.ClusterStats]) -> None:
        """Takes reports in. What is said of clusters that cannot be ours is passed over."""
        for report in reports:
            if AT not in report.cluster_name:
                continue
            if report.total_dropped_requests:
                self._add(report.cluster_name, "", Load(dropped=report.total_dropped_requests))
            for each in report.upstream_locality_stats:
                self._add(
                    report.cluster_name,
                    f"{each.locality.region}/{each.locality.zone}",
                    Load(
                        each.total_issued_requests,
                        each.total_successful_requests,
                        each.total_error_requests,
                    ),
                )

    def all(self) -> list[tuple[str, str, Load]]:
        """Cluster, locality and load, in order."""
        return [(cluster, place, load) for (cluster, place), load in sorted(self._sums.items())]

    def take(self) -> dict[str, Load]:
        """By cluster, what was reported since this was asked for last."""
        taken, self._fresh = self._fresh, {}
        return taken

    def _add(self, cluster: str, locality: str, load: Load) -> None:
        _sum(self._sums, (cluster, locality), load)
        _sum(self._fresh, cluster, load)


def _sum(sums: dict[_Key, Load], key: _Key, load: Load) -> None:
    if key not in sums and len(sums) >= CLUSTERS_MAX:
        # The one heard of first goes.
        del sums[next(iter(sums))]
    sums[key] = sums.get(key, Load()) + load


class LoadServicer(pb_grpc.LoadReportingServiceServicer):
    """Asks every client for everything and adds it up."""

    def __init__(self, loads: Loads) -> None:
        self._loads = loads
        self._streams = 0

    async def StreamLoadStats(
        self, request_iterator: AsyncIterator[pb.LoadStatsRequest], context: _Context
    ) -> AsyncIterator[pb.LoadStatsResponse]:
        """Ends with the client."""
        if self._streams >= STREAMS_MAX:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{STREAMS_MAX} clients report already"
            )
        self._streams += 1
        try:
            first = True
            async for request in request_iterator:
                self._loads.add(request.cluster_stats)
                if first:
                    first = False
                    yield pb.LoadStatsResponse(
                        send_all_clusters=True, load_reporting_interval=to_duration(REPORT_MS)
                    )
        finally:
            self._streams -= 1
