"""A broker in this process, served by real grpc.aio: it announces, keeps what was decided, counts
commands.

It enforces nothing. What the real broker does with decisions is tested with the real broker.
"""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import msgspec
from google.rpc import status_pb2
from grpc_status import rpc_status

from plait import errors
from plait.control.v1 import control_service_pb2 as control_pb
from plait.control.v1 import control_service_pb2_grpc as control_grpc
from plait.control.v1 import key_value_service_pb2 as kv_pb
from plait.control.v1 import key_value_service_pb2_grpc as kv_grpc
from plait.v1 import contract_service_pb2 as contract_pb
from plait.v1 import contract_service_pb2_grpc as contract_grpc
from plait_scheduler.broker.epoch import METADATA_KEY
from plait_scheduler.broker.leader_keys import LEADER_KEY, LEASE_KEY, Leader
from services.scheduler.tests.fake_tasks import FakeTasks

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class State:
    """What the real broker keeps in its log, and what tests look at."""

    entries: dict[str, kv_pb.Entry] = field(default_factory=dict)
    contracts: dict[str, contract_pb.GetContractResponse] = field(default_factory=dict)
    versions: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    # Announcements without a decision, by number.
    pending: dict[int, control_pb.ContractAnnounced] = field(default_factory=dict)
    decisions: dict[int, asyncio.Future[control_pb.DecideContractRequest]] = field(
        default_factory=dict
    )
    workers: dict[str, control_pb.WorkerAttached] = field(default_factory=dict)
    windows: asyncio.Queue[dict[str, int]] = field(default_factory=asyncio.Queue)
    gates: asyncio.Queue[list[control_pb.MethodGate]] = field(default_factory=asyncio.Queue)
    splits: asyncio.Queue[list[control_pb.Split]] = field(default_factory=asyncio.Queue)
    worker_gates: asyncio.Queue[list[control_pb.WorkerGate]] = field(default_factory=asyncio.Queue)
    limits: asyncio.Queue[list[control_pb.MethodLimits]] = field(default_factory=asyncio.Queue)
    weights: asyncio.Queue[control_pb.SetWeightsRequest] = field(default_factory=asyncio.Queue)


class FakeBroker(
    control_grpc.ControlServiceServicer,
    kv_grpc.KeyValueServiceServicer,
    contract_grpc.ContractServiceServicer,
):
    """Can be stopped and started again at the same address, with or without what it kept."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self.tasks = FakeTasks(self._methods)
        self.address = "127.0.0.1:0"
        # Set while a scheduler observes; who opened a stream, in order.
        self.observed = asyncio.Event()
        self.observers: list[str] = []
        self._opened = asyncio.Condition()
        # Statuses of the next unary calls, by name of the method; OK lets one pass.
        self.failures: dict[str, list[grpc.StatusCode]] = {}
        # While it is not set, a leader's renewals are not answered; commands refused for their
        # epoch, by name of the method.
        self.renewing = asyncio.Event()
        self.renewing.set()
        self.fenced: list[str] = []
        self.refused = asyncio.Event()
        self._numbers = itertools.count(1)
        self._stream: asyncio.Queue[control_pb.ObserveResponse | None] | None = None
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        server = grpc.aio.server()
        control_grpc.add_ControlServiceServicer_to_server(self, server)
        kv_grpc.add_KeyValueServiceServicer_to_server(self, server)
        contract_grpc.add_ContractServiceServicer_to_server(self, server)
        server.add_generic_rpc_handlers((self.tasks.handler(),))
        port = server.add_insecure_port(self.address)
        self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None
        self.observed.clear()

    async def opened(self, count: int) -> None:
        """Waits until `count` streams were opened since the broker was made, ended ones included.

        To wait for `observed` is not enough where a stream ends first: until the server sees that
        end, the event is still that of the stream before.
        """
        async with self._opened:
            await self._opened.wait_for(lambda: len(self.observers) >= count)

    def depose(self) -> None:
        """Another scheduler takes the lead, and is not heard of again."""
        value = msgspec.json.encode(Leader("another", "elsewhere:1"))
        version = next(self.state.versions)
        self.state.entries[LEADER_KEY] = kv_pb.Entry(key=LEADER_KEY, value=value, version=version)

    def end_stream(self) -> None:
        """Ends the observer's stream as a broker does whose observer does not read."""
        assert self._stream is not None
        self._stream.put_nowait(None)

    def announce(
        self,
        descriptor_set: bytes,
        services: list[str],
        validate_only: bool = False,
        *,
        for_worker: bool = True,
        replace: bool = False,
    ) -> asyncio.Future[control_pb.DecideContractRequest]:
        """Announces a contract; what is returned will be what was decided."""
        number = next(self._numbers)
        announced = control_pb.ContractAnnounced(
            announcement=number,
            descriptor_set=descriptor_set,
            services=services,
            validate_only=validate_only,
            digest=hashlib.sha256(descriptor_set).hexdigest(),
            for_worker=for_worker,
            replace=replace,
        )
        self.state.pending[number] = announced
        decision: asyncio.Future[control_pb.DecideContractRequest]
        decision = asyncio.get_running_loop().create_future()
        self.state.decisions[number] = decision
        self.tell(control_pb.ObserveResponse(contract_announced=announced))
        return decision

    def attach(
        self,
        worker: str,
        slots: int,
        methods: tuple[str, ...] = ("/s.S/M",),
        endpoint: str = "",
        version: str = "",
        *,
        contracts: tuple[str, ...] = (),
    ) -> None:
        attached = control_pb.WorkerAttached(
            worker=worker,
            name=f"name-{worker}",
            slots=slots,
            methods=methods,
            contracts=contracts,
            endpoint=endpoint,
            version=version,
        )
        self.state.workers[worker] = attached
        self.tell(control_pb.ObserveResponse(worker_attached=attached))

    def detach(self, worker: str) -> None:
        del self.state.workers[worker]
        detached = control_pb.WorkerDetached(worker=worker, reason="closed")
        self.tell(control_pb.ObserveResponse(worker_detached=detached))

    def figures(
        self,
        *workers: control_pb.WorkerFigures,
        interval_ms: int = 1000,
        methods: Sequence[control_pb.MethodFigures] = (),
        queues: Sequence[control_pb.QueueFigures] = (),
        lost: Sequence[control_pb.LostAttempts] = (),
        splits: Sequence[control_pb.SplitFigures] = (),
        early: bool = False,
    ) -> None:
        figures = control_pb.Figures(
            workers=workers,
            methods=methods,
            queues=queues,
            lost=lost,
            splits=splits,
            early=early,
        )
        figures.interval.FromMilliseconds(interval_ms)
        self.tell(control_pb.ObserveResponse(figures=figures))

    def tell(self, response: control_pb.ObserveResponse) -> None:
        if self._stream is not None:
            self._stream.put_nowait(response)

    def _methods(self) -> list[str]:
        """Those in force."""
        return [info.method for kept in self.state.contracts.values() for info in kept.methods]

    # The servicers.

    async def Observe(
        self, request: control_pb.ObserveRequest, context: Context
    ) -> AsyncIterator[control_pb.ObserveResponse]:
        await self._check_epoch("Observe", context)
        if self._stream is not None:
            self._stream.put_nowait(None)
        stream: asyncio.Queue[control_pb.ObserveResponse | None] = asyncio.Queue()
        self._stream = stream
        self.observers.append(request.scheduler)
        for worker in self.state.workers.values():
            stream.put_nowait(control_pb.ObserveResponse(worker_attached=worker))
        for announced in self.state.pending.values():
            stream.put_nowait(control_pb.ObserveResponse(contract_announced=announced))
        await context.send_initial_metadata(())
        self.observed.set()
        async with self._opened:
            self._opened.notify_all()
        try:
            while (response := await stream.get()) is not None:
                yield response
        finally:
            if self._stream is stream:
                self._stream = None
                self.observed.clear()
        await context.abort_with_status(_conflict("another scheduler observes"))

    async def DecideContract(
        self, request: control_pb.DecideContractRequest, context: Context
    ) -> control_pb.DecideContractResponse:
        await self._fail("DecideContract", context)
        await self._check_epoch("DecideContract", context)
        announced = self.state.pending.pop(request.announcement, None)
        if announced is None:
            await context.abort_with_status(_conflict("nobody waits"))
        assert announced is not None
        if not request.HasField("refusal") and not announced.validate_only:
            for service in set(announced.services) - set(request.beside_services):
                self.state.contracts[service] = contract_pb.GetContractResponse(
                    descriptor_set=announced.descriptor_set,
                    digest=announced.digest,
                    methods=[policy.info for policy in request.policies],
                )
        self.state.decisions.pop(request.announcement).set_result(request)
        return control_pb.DecideContractResponse()

    async def SetWindows(
        self, request: control_pb.SetWindowsRequest, context: Context
    ) -> control_pb.SetWindowsResponse:
        await self._fail("SetWindows", context)
        await self._check_epoch("SetWindows", context)
        windows = {entry.worker: entry.window for entry in request.windows}
        self.state.windows.put_nowait(windows)
        unknown = [worker for worker in windows if worker not in self.state.workers]
        return control_pb.SetWindowsResponse(unknown=unknown)

    async def SetGates(
        self, request: control_pb.SetGatesRequest, context: Context
    ) -> control_pb.SetGatesResponse:
        await self._fail("SetGates", context)
        await self._check_epoch("SetGates", context)
        self.state.gates.put_nowait(list(request.gates))
        return control_pb.SetGatesResponse()

    async def SetSplits(
        self, request: control_pb.SetSplitsRequest, context: Context
    ) -> control_pb.SetSplitsResponse:
        await self._fail("SetSplits", context)
        await self._check_epoch("SetSplits", context)
        self.state.splits.put_nowait(list(request.splits))
        return control_pb.SetSplitsResponse()

    async def SetWorkerGates(
        self, request: control_pb.SetWorkerGatesRequest, context: Context
    ) -> control_pb.SetWorkerGatesResponse:
        await self._fail("SetWorkerGates", context)
        await self._check_epoch("SetWorkerGates", context)
        self.state.worker_gates.put_nowait(list(request.gates))
        return control_pb.SetWorkerGatesResponse()

    async def SetLimits(
        self, request: control_pb.SetLimitsRequest, context: Context
    ) -> control_pb.SetLimitsResponse:
        await self._fail("SetLimits", context)
        await self._check_epoch("SetLimits", context)
        self.state.limits.put_nowait(list(request.limits))
        return control_pb.SetLimitsResponse()

    async def SetWeights(
        self, request: control_pb.SetWeightsRequest, context: Context
    ) -> control_pb.SetWeightsResponse:
        await self._fail("SetWeights", context)
        await self._check_epoch("SetWeights", context)
        self.state.weights.put_nowait(request)
        return control_pb.SetWeightsResponse()

    async def AnnounceContract(
        self, request: contract_pb.AnnounceContractRequest, context: Context
    ) -> contract_pb.AnnounceContractResponse:
        decision = await self.announce(
            request.descriptor_set, list(request.services), request.validate_only
        )
        if decision.HasField("refusal"):
            await context.abort_with_status(rpc_status.to_status(decision.refusal))
        return contract_pb.AnnounceContractResponse(methods=[p.info for p in decision.policies])

    async def ResolveMethods(
        self, request: contract_pb.ResolveMethodsRequest, context: Context
    ) -> contract_pb.ResolveMethodsResponse:
        known = [info for kept in self.state.contracts.values() for info in kept.methods]
        found = [info for info in known if info.method in request.methods]
        return contract_pb.ResolveMethodsResponse(methods=found)

    async def ListContracts(
        self, request: contract_pb.ListContractsRequest, context: Context
    ) -> contract_pb.ListContractsResponse:
        found = [
            contract_pb.ContractSummary(service=name, digest=kept.digest, methods=kept.methods)
            for name, kept in sorted(self.state.contracts.items())
        ]
        return contract_pb.ListContractsResponse(contracts=found)

    async def ListEntries(
        self, request: kv_pb.ListEntriesRequest, context: Context
    ) -> kv_pb.ListEntriesResponse:
        found = [
            entry
            for key, entry in sorted(self.state.entries.items())
            if key.startswith(request.prefix)
        ]
        return kv_pb.ListEntriesResponse(entries=found)

    async def GetContract(
        self, request: contract_pb.GetContractRequest, context: Context
    ) -> contract_pb.GetContractResponse:
        await self._fail("GetContract", context)
        found = self.state.contracts.get(request.service)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such contract")
        assert found is not None
        return found

    async def GetEntry(
        self, request: kv_pb.GetEntryRequest, context: Context
    ) -> kv_pb.GetEntryResponse:
        await self._fail("GetEntry", context)
        return kv_pb.GetEntryResponse(entry=self.state.entries.get(request.key))

    async def PutEntry(
        self, request: kv_pb.PutEntryRequest, context: Context
    ) -> kv_pb.PutEntryResponse:
        if request.key == LEASE_KEY:
            await self.renewing.wait()
        await self._fail("PutEntry", context)
        await self._check_epoch("PutEntry", context)
        await self._check_version(request, context)
        version = next(self.state.versions)
        self.state.entries[request.key] = kv_pb.Entry(
            key=request.key, value=request.value, version=version
        )
        return kv_pb.PutEntryResponse(version=version)

    async def DeleteEntry(
        self, request: kv_pb.DeleteEntryRequest, context: Context
    ) -> kv_pb.DeleteEntryResponse:
        await self._check_epoch("DeleteEntry", context)
        await self._check_version(request, context)
        self.state.entries.pop(request.key, None)
        return kv_pb.DeleteEntryResponse()

    async def _check_epoch(self, method: str, context: Context) -> None:
        """As the real broker does."""
        sent = dict(context.invocation_metadata() or ()).get(METADATA_KEY)
        entry = self.state.entries.get(LEADER_KEY)
        current = str(entry.version if entry else 0)
        if sent not in (None, current):
            self.fenced.append(method)
            self.refused.set()
            status = errors.new_status(
                grpc.StatusCode.ABORTED,
                errors.Reason.LEADERSHIP_LOST,
                "another scheduler leads",
                {"epoch": current},
            )
            await context.abort_with_status(rpc_status.to_status(status))

    async def _check_version(
        self,
        request: kv_pb.PutEntryRequest | kv_pb.DeleteEntryRequest,
        context: Context,
    ) -> None:
        entry = self.state.entries.get(request.key)
        current = entry.version if entry else 0
        if request.HasField("expected_version") and request.expected_version != current:
            await context.abort(grpc.StatusCode.ABORTED, f"version {current}")

    async def _fail(self, method: str, context: Context) -> None:
        codes = self.failures.get(method) or [grpc.StatusCode.OK]
        code = codes.pop(0)
        if code is not grpc.StatusCode.OK:
            await context.abort(code, "as told")


def _conflict(message: str) -> grpc.Status:
    status = errors.new_status(
        grpc.StatusCode.FAILED_PRECONDITION, errors.Reason.STATE_CONFLICT, message
    )
    return rpc_status.to_status(status)


def refusal_of(decision: control_pb.DecideContractRequest) -> status_pb2.Status:
    """The refusal of a decision that must be one."""
    assert decision.HasField("refusal"), "the contract was accepted"
    return decision.refusal
