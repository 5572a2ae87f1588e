"""A worker without our SDK, that does what no good worker does: it goes silent past its lease and
then completes what it held, under the old tokens; or it never reads; or it never says it lives."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import grpc
from google.rpc import error_details_pb2

from plait.v1 import worker_service_pb2 as pb
from plait.v1 import worker_service_pb2_grpc

FRAME = 256


class Stubborn:
    """One Attach stream, spoken by hand."""

    def __init__(self, channel: grpc.aio.Channel, name: str, methods: list[str]) -> None:
        self.held: list[tuple[int, int]] = []
        """Tasks and the tokens they came under."""
        self._stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self._name = name
        self._methods = methods
        self._says: asyncio.Queue[pb.AttachRequest | None] = asyncio.Queue()
        self._call: grpc.aio.StreamStreamCall[pb.AttachRequest, pb.AttachResponse] | None = None

    async def attach(self, slots: int) -> None:
        """Says hello, and waits for the welcome."""
        self._says = asyncio.Queue()
        hello = pb.WorkerHello(
            worker=self._name, client="stubborn/1", methods=self._methods, slots=slots
        )
        self._says.put_nowait(pb.AttachRequest(hello=hello))
        self._call = self._stub.Attach(self._requests(self._says))
        while (said := await self.read()) is not None and not said.HasField("welcome"):
            assert said.HasField("heartbeat"), said
        assert said is not None, "the stream ended"

    async def take(self, count: int) -> None:
        """Takes so many attempts, and says that it has them."""
        while len(self.held) < count:
            said = await self.read()
            assert said is not None, "the stream ended"
            if said.HasField("attempts"):
                frame = said.attempts
                self.held += zip(frame.tasks, frame.tokens, strict=True)
                self._says.put_nowait(pb.AttachRequest(accepted_sequence=frame.sequence))

    async def silence(self) -> None:
        """Says nothing until the broker has cut the stream."""
        try:
            while await self.read() is not None:
                pass
        except grpc.aio.AioRpcError:
            pass
        self._says.put_nowait(None)

    async def end(self) -> None:
        """Says that no more comes, and waits for the broker's end of the stream."""
        self._says.put_nowait(None)
        await self.silence()

    async def complete(self, payload: bytes) -> tuple[int, list[str]]:
        """Completes all it holds, in order; answers how many outcomes were settled, and the reasons
        of those that were refused."""
        frames = [self.held[at : at + FRAME] for at in range(0, len(self.held), FRAME)]
        refused: list[str] = []
        for sequence, frame in enumerate(frames, 1):
            outcomes = pb.OutcomeFrame(
                sequence=sequence,
                tasks=[task for task, _ in frame],
                tokens=[token for _, token in frame],
                payloads=itertools.repeat(payload, len(frame)),
            )
            self._says.put_nowait(pb.AttachRequest(outcomes=outcomes))
        settled = 0
        while settled < len(frames):
            said = await self.read()
            assert said is not None, "the stream ended"
            if said.HasField("settled"):
                settled = said.settled.sequence
                refused += [_reason(each) for each in said.settled.refused]
        return len(self.held), refused

    async def read(self) -> pb.AttachResponse | None:
        """The next message; None at the end."""
        assert self._call is not None
        said = await self._call.read()
        return said if isinstance(said, pb.AttachResponse) else None

    @staticmethod
    async def _requests(
        says: "asyncio.Queue[pb.AttachRequest | None]",
    ) -> AsyncIterator[pb.AttachRequest]:
        while (said := await says.get()) is not None:
            yield said


def _reason(refused: pb.RefusedOutcome) -> str:
    """Its ErrorInfo's reason, else the code."""
    info = error_details_pb2.ErrorInfo()
    for detail in refused.status.details:
        if detail.Unpack(info):
            return str(info.reason)
    return f"code {refused.status.code}"
