"""The broker's control service."""

from collections.abc import AsyncGenerator, Mapping, Sequence

import grpc
from google.rpc import status_pb2

from plait.control.v1 import control_service_pb2 as pb
from plait.control.v1 import control_service_pb2_grpc as pb_grpc
from plait_scheduler.broker.channel import CALL_SECONDS
from plait_scheduler.broker.epoch import Epoch
from plait_scheduler.broker.events import to_event
from plait_scheduler.broker.policies import to_method_limits, to_method_policy
from plait_scheduler.broker.retry import bounded
from plait_scheduler.broker.rollouts import to_sticky
from plait_scheduler.broker.times import to_duration
from plait_scheduler.domain.events import Event
from plait_scheduler.domain.gates import Gate
from plait_scheduler.domain.policy import MethodPolicy
from plait_scheduler.domain.rollout import Split
from plait_scheduler.domain.routes import Routes


class Control:
    """What is observed and what is commanded. Errors are grpc.aio.AioRpcError."""

    def __init__(self, channel: grpc.aio.Channel, epoch: Epoch | None = None) -> None:
        """`epoch` is that of whoever commands; None: a command is not checked for it."""
        self._epoch = epoch or Epoch()
        self._stub: pb_grpc.ControlServiceAsyncStub = pb_grpc.ControlServiceStub(channel)

    async def observe(
        self, scheduler: str, figures_interval_ms: int
    ) -> AsyncGenerator[Event | None, None]:
        """Yields None once the broker has accepted the stream, then what happens, until the stream
        ends.
        """
        request = pb.ObserveRequest(
            scheduler=scheduler,
            figures_interval=to_duration(figures_interval_ms),
            early_figures=True,
        )
        call = self._stub.Observe(request, metadata=self._epoch.metadata())
        try:
            await call.wait_for_connection()
            yield None
            async for response in call:
                event = to_event(response)
                if event is not None:
                    yield event
        finally:
            call.cancel()

    async def accept(
        self,
        announcement: int,
        policies: Sequence[MethodPolicy],
        routes: Routes,
        beside: Sequence[str],
    ) -> None:
        """Puts the policies of an announced contract in force, durably, but for those of services
        that are `beside` another contract: of these only the routes are taken.
        """
        await self._decide(
            pb.DecideContractRequest(
                announcement=announcement,
                policies=[to_method_policy(each, routes.get(each.method)) for each in policies],
                beside_services=beside,
            )
        )

    async def refuse(self, announcement: int, refusal: status_pb2.Status) -> None:
        """Tells the announcer why not."""
        await self._decide(pb.DecideContractRequest(announcement=announcement, refusal=refusal))

    async def set_windows(self, windows: Mapping[str, int]) -> Sequence[str]:
        """Sets windows by worker; returns the workers that are not attached any more."""
        request = pb.SetWindowsRequest(
            windows=[
                pb.WorkerWindow(worker=worker, window=window) for worker, window in windows.items()
            ]
        )
        response = await self._stub.SetWindows(
            request, timeout=CALL_SECONDS, metadata=self._epoch.metadata()
        )
        return list(response.unknown)

    async def set_gates(self, gates: Sequence[Gate]) -> Sequence[str]:
        """Sets how many attempts of methods may begin; returns the methods that are not known."""
        request = pb.SetGatesRequest(
            gates=[
                pb.MethodGate(
                    method=gate.name, permits=gate.permits, valid_for=to_duration(gate.valid_ms)
                )
                for gate in gates
            ]
        )
        response = await self._stub.SetGates(
            request, timeout=CALL_SECONDS, metadata=self._epoch.metadata()
        )
        return list(response.unknown)

    async def set_splits(self, splits: Sequence[Split]) -> None:
        """Says how services are divided between versions from now on: all of them."""
        request = pb.SetSplitsRequest(
            splits=[
                pb.Split(
                    service=split.service,
                    version=split.version,
                    share=split.share,
                    sticky=to_sticky(split.sticky),
                    salt=split.salt,
                    fallback_after=to_duration(split.fallback_ms),
                )
                for split in splits
            ]
        )
        await self._stub.SetSplits(request, timeout=CALL_SECONDS, metadata=self._epoch.metadata())

    async def set_worker_gates(self, gates: Sequence[Gate]) -> Sequence[str]:
        """Sets how many attempts workers may have; returns the workers that are not attached."""
        request = pb.SetWorkerGatesRequest(
            gates=[
                pb.WorkerGate(
                    worker=gate.name, permits=gate.permits, valid_for=to_duration(gate.valid_ms)
                )
                for gate in gates
            ]
        )
        response = await self._stub.SetWorkerGates(
            request, timeout=CALL_SECONDS, metadata=self._epoch.metadata()
        )
        return list(response.unknown)

    async def set_limits(self, policies: Sequence[MethodPolicy]) -> Sequence[str]:
        """Puts the limits of these policies in force, durably, and nothing else of them; returns
        the methods that are not known.
        """
        request = pb.SetLimitsRequest(limits=[to_method_limits(each) for each in policies])
        response = await self._stub.SetLimits(
            request, timeout=CALL_SECONDS, metadata=self._epoch.metadata()
        )
        return list(response.unknown)

    async def set_weights(self, method: str, weights: Mapping[str, int]) -> None:
        """Sets all weights of the keys of a method, durably."""
        pairs = weights.items()
        request = pb.SetWeightsRequest(
            method=method, weights=[pb.KeyWeight(key=key, weight=weight) for key, weight in pairs]
        )
        await self._stub.SetWeights(request, timeout=CALL_SECONDS, metadata=self._epoch.metadata())

    async def _decide(self, request: pb.DecideContractRequest) -> None:
        async for attempt in bounded():
            with attempt:
                await self._stub.DecideContract(
                    request, timeout=CALL_SECONDS, metadata=self._epoch.metadata()
                )
