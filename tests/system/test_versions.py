"""Two versions of a contract side by side: tasks go to workers that know all that was said.

The contract of this repository is one version; the other is made from its source, and served and
called by programs of its own generated code. Builds of every language meet in
interop/runner/versions.py.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from interop.runner import processes
from plait.conformance.v1 import client_driver_pb2 as driver
from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as api
from testing.v1 import echo_pb2 as pb
from tests.support.mesh import ROOT, Caller, Mesh
from tests.support.processes import Process
from tests.support.waiting import eventually

SERVICE = "testing.v1.EchoService"
SOURCE = (ROOT / "proto/testing/v1/echo.proto").read_text()
PROGRAM = str(ROOT / "tests/support/versioned_echo.py")
TIMEOUT_S = 60.0


def _once(old: str, new: str) -> str:
    assert SOURCE.count(old) == 1
    return SOURCE.replace(old, new)


_PAYLOAD = "  // As in the request.\n  bytes payload = 1;\n}\n\n// How to fail."
# Knows a field more, which it answers with.
LATER = _once(_PAYLOAD, _PAYLOAD.replace("1;\n", "1;\n  string note = 2;\n", 1)).replace(
    "  // Comes back.\n  bytes payload = 1;", "  bytes payload = 1;\n  string note = 2;", 1
)
# Knows a field less.
EARLIER = (
    SOURCE[: SOURCE.index("  // Trailing metadata to send")]
    + (SOURCE[SOURCE.index("  string trailer = 6;\n") + len("  string trailer = 6;\n") :])
)
# Field 1 of Echo's messages is of another type.
BROKEN = _once("  // Comes back.\n  bytes payload = 1;", "  fixed64 payload = 1;").replace(
    _PAYLOAD, _PAYLOAD.replace("bytes", "fixed64", 1)
)


class Version:
    """A version of the contract as programs of its own."""

    def __init__(self, mesh: Mesh, source: str) -> None:
        self.mesh = mesh
        self.folder = mesh.folder / f"version-{hash(source):x}"
        self.file = self.folder / "testing/v1/echo.proto"
        self.file.parent.mkdir(parents=True)
        self.file.write_text(source)

    async def generate(self) -> None:
        """Makes its code."""
        await command("gen", str(self.file), "-I", str(self.folder), "--out", str(self.folder))

    async def worker(self, announced: str = "") -> Process:
        """A worker of it, which announces this version of its program."""
        return await self._start("worker", announced)

    async def call(self, method: str, request: bytes, count: int = 1) -> list[bytes]:
        """What a client of it is answered."""
        process = await self._start("call", method, request.hex(), str(count))
        return [bytes.fromhex(each) for each in process.ready["answers"]]

    async def push(self, *arguments: str) -> str:
        """`plait contract push`."""
        files = (str(self.file), "-I", str(self.folder), "--service", SERVICE)
        return await command("contract", "push", *files, *arguments, address=self.mesh.address)

    async def _start(self, *arguments: str) -> Process:
        env = {"PYTHONPATH": str(self.folder)}
        return await self.mesh.start("version", [sys.executable, PROGRAM, *arguments], env)


async def command(*arguments: str, address: str = "") -> str:
    """What the command line says. Raises AssertionError when it fails."""
    where = ("--address", address, "--timeout", str(TIMEOUT_S)) if address else ()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "plait.cli", *arguments, *where),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, stderr.decode()
    return stdout.decode()


async def version(mesh: Mesh, source: str) -> Version:
    """A version with its code."""
    made = Version(mesh, source)
    await made.generate()
    return made


@asynccontextmanager
async def client(
    mesh: Mesh, language: str
) -> AsyncIterator[Callable[[str, bytes], Awaitable[bytes]]]:
    """Calls as a client of this repository's version, in a language."""
    log = mesh.folder / f"client-{language}.log"
    running = await processes.Client.start(processes.driver(language), mesh.address, log)

    async def call(method: str, request: bytes) -> bytes:
        submission = driver.Submission(method=method, request=request)
        _, answer = await running.ask(driver.ClientRequest(call=submission))
        said = await asyncio.wait_for(answer, TIMEOUT_S)
        assert not said.HasField("error"), said
        (response,) = said.responses
        return response

    try:
        yield call
    finally:
        await running.close()


PLAIN = pb.EchoRequest(payload=b"plain").SerializeToString()
# As LATER has it: payload and note.
NOTED = b"\x0a\x05noted\x12\x04seen"


async def waiting(caller: Caller, method: str) -> int:
    """Tasks of a method that nobody has begun."""
    return len(await caller.list(f'method = "/{SERVICE}/{method}" AND state = READY'))


async def ran(caller: Caller, *tasks: task_pb2.Task) -> set[str]:
    """The workers that ran tasks."""
    whole = [await caller.get(task.id, full=True) for task in tasks]
    return {event.worker for task in whole for event in task.events if event.worker}


@pytest.mark.parametrize(("calls", "works"), [("typescript", "rust")])
async def test_no_worker_drops_what_a_later_client_said(fresh: Mesh, calls: str, works: str):
    later = await version(fresh, LATER)
    await fresh.start_worker(works)
    newer = await later.worker()
    # Answered with the note, so not by the earlier worker.
    assert await later.call("Echo", NOTED, 40) == [NOTED] * 40
    async with client(fresh, calls) as call, fresh.caller() as caller:
        answers = await asyncio.gather(*(call("Echo", PLAIN) for _ in range(20)))
        assert answers == [PLAIN] * 20
        await newer.terminate()
        held = asyncio.create_task(later.call("Echo", NOTED))
        await eventually(lambda: waiting(caller, "Echo"), lambda count: count == 1)
        # Others go on, on the earlier worker.
        assert await call("Echo", PLAIN) == PLAIN
        assert await waiting(caller, "Echo") == 1
        await later.worker()
        assert await held == [NOTED]


@pytest.mark.parametrize(("calls", "works"), [("go", "python")])
async def test_an_earlier_worker_goes_on_with_what_it_knows(fresh: Mesh, calls: str, works: str):
    earlier = await version(fresh, EARLIER)
    older = await earlier.worker()
    known = pb.FailRequest(message="known").SerializeToString()
    told = pb.FailRequest(message="told", trailer="new").SerializeToString()
    done = pb.FailResponse(attempt=1).SerializeToString()
    assert await earlier.call("Fail", known) == [done]
    newer = await fresh.start_worker(works)
    async with client(fresh, calls) as call, fresh.caller() as caller:
        answers = await asyncio.gather(*(call("Fail", told) for _ in range(20)))
        assert answers == [done] * 20
        first, *others = reversed(await caller.list(f'method = "/{SERVICE}/Fail"'))
        assert await ran(caller, first) == {older.ready["worker"]}
        assert len(others) == 20
        assert older.ready["worker"] not in await ran(caller, *others)
        assert await earlier.call("Fail", known, 20) == [done] * 20
        await newer.terminate()
        held = asyncio.ensure_future(call("Fail", told))
        await eventually(lambda: waiting(caller, "Fail"), lambda count: count == 1)
        assert await earlier.call("Fail", known) == [done]
        assert await waiting(caller, "Fail") == 1
        await fresh.start_worker(works)
        assert await held == done


async def test_a_later_contract_stays_in_force_while_it_is_served(fresh: Mesh):
    later = await version(fresh, LATER)

    async def in_force() -> str:
        return await command("contract", "show", SERVICE, address=fresh.address)

    older = await fresh.start_worker("python")
    assert "version 1, 1 worker," in await in_force()
    newer = await later.worker()
    said = await in_force()
    assert "version 2, 1 worker," in said
    assert "beside it version 1, 1 worker" in said
    # One of the earlier version comes again, as in a rolling restart.
    await older.terminate()
    older = await fresh.start_worker("go")
    assert "  version 2" in await in_force()
    # None of the later one is left: whoever comes now brings back its own.
    await newer.terminate()
    await older.terminate()
    await fresh.start_worker("rust")
    assert "  version 1" in await in_force()
    # An operator decides, whatever is served.
    await later.push()
    assert "  version 2" in await in_force()
    await fresh.start_worker("typescript")
    assert "  version 1" in await in_force()


async def test_tasks_that_a_break_was_allowed_for_wait_for_their_own_workers(fresh: Mesh):
    broken = await version(fresh, BROKEN)
    number = b"\x09\x01\x02\x03\x04\x05\x06\x07\x08"
    older = await fresh.start_worker("python")
    async with fresh.caller() as caller:
        await caller.tasks.PauseQueue(api.PauseQueueRequest(name="echo", reason="a break"))
        task = await caller.plait.submit(caller.echo.Echo, pb.EchoRequest(payload=b"2"))
        await older.terminate()
        with pytest.raises(AssertionError, match="fixed64"):
            await broken.push()
        await broken.push("--allow", "the numbers are wanted")
        await caller.tasks.ResumeQueue(api.ResumeQueueRequest(name="echo"))
        await broken.worker()
        assert await broken.call("Echo", number, 5) == [number] * 5
        assert await waiting(caller, "Echo") == 1
        await fresh.start_worker("go")
        assert (await task.result()).payload == b"2"


async def test_a_client_is_told_that_its_bytes_cannot_be_read(fresh: Mesh):
    broken = await version(fresh, BROKEN)
    await fresh.start_worker("python")
    with pytest.raises(RuntimeError, match="was bytes and is fixed64 now"):
        await broken.call("Echo", b"")


async def test_a_new_contract_of_a_client_waits_for_no_scheduler(fresh: Mesh):
    later = await version(fresh, LATER)
    await fresh.start_worker("python")
    assert fresh.scheduler is not None
    await fresh.scheduler.kill()
    # Nobody can say what it is; the method is known, and so its tasks go as those of others do.
    assert await later.call("Echo", NOTED) == [NOTED[:7]]
