"""For tests of programs that use Plait: a real broker and scheduler, in a folder of their own.

    def test_charge():
        with plait.testing.Mesh() as mesh:
            asyncio.run(check(mesh.address))

With pytest the fixture `plait_mesh` is one for the whole run, `plait_kit_mesh` another one whose
clock can be moved ahead and whose attempts can be made to fail (see TestKit), and `plait_contract`
tests the workers of a mesh: see ContractTest. The package plait-scheduler must be installed, and
the broker's binary be found: see PLAIT_BROKER.
"""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from plait import client
from plait._processes import Process, find_broker
from plait._test_kit import TestKit as TestKit

if TYPE_CHECKING:
    from plait._boundary.check import Report

_START_S: Final = 30.0
_STOP_S: Final = 15.0


class Mesh:
    """A broker and a scheduler on free ports of the loopback interface."""

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        scheduler: bool = True,
        test_kit: bool = False,
        broker_arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Starts with the context.

        data_dir: where the broker keeps its data; default: a folder that goes with the mesh.
        scheduler: whether to start one; without it no new contract is accepted.
        test_kit: whether its clock can be moved ahead and attempts be made to fail: see `kit`. Such
        a broker does not wait for its disk.
        broker_arguments: more flags of the broker, such as `--sync none`.
        environment: more variables for both processes.
        """
        self._given = data_dir
        self._scheduler_wanted = scheduler
        self._test_kit = test_kit
        kit = ("--test-kit", "--sync", "none") if test_kit else ()
        self._broker_arguments = (*kit, *broker_arguments)
        self._environment = environment or {}
        self._exit = contextlib.ExitStack()
        self._folder = Path()
        self._broker: Process | None = None
        self._scheduler: Process | None = None
        self._address = ""

    @property
    def address(self) -> str:
        """The broker's address, the same over its restarts; for `plait.connect`."""
        if not self._address:
            raise RuntimeError("the mesh is not started: use `with Mesh() as mesh`")
        return self._address

    @property
    def kit(self) -> TestKit:
        """Its clock and its faults. Raises RuntimeError where it was not started with them."""
        if not self._test_kit:
            raise RuntimeError("the mesh has no test kit: use Mesh(test_kit=True)")
        return TestKit(self.address)

    @property
    def data_dir(self) -> Path:
        """Where the broker keeps its data."""
        return self._given or self._folder / "broker"

    @property
    def logs(self) -> Path:
        """The folder of broker.log and scheduler.log."""
        return self._folder

    def connect(self) -> client.Client:
        """A client of it, as `plait.connect` makes it."""
        return client.connect(self.address)

    def start_broker(self) -> None:
        """Starts the broker; after `kill_broker` on the same port, with the same data."""
        listen = self._address or "127.0.0.1:0"
        command = [str(find_broker()), "--listen", listen, "--data-dir", str(self.data_dir)]
        self._broker = self._start("broker", [*command, *self._broker_arguments])
        self._address = self._broker.wait_ready(_START_S)

    def kill_broker(self) -> None:
        """Kills the broker, as kill -9 does."""
        if self._broker is not None:
            self._broker.kill()
            self._broker = None

    def start_scheduler(self) -> None:
        """Starts the scheduler; it is ready when the broker listens to it."""
        command = [sys.executable, "-m", "plait_scheduler", "--listen", "127.0.0.1:0", "--dev"]
        self._scheduler = self._start("scheduler", [*command, "--broker", self.address])
        self._scheduler.wait_ready(_START_S)

    def kill_scheduler(self) -> None:
        """Kills the scheduler, as kill -9 does. Known contracts go on."""
        if self._scheduler is not None:
            self._scheduler.kill()
            self._scheduler = None

    def __enter__(self) -> Self:
        folder = tempfile.TemporaryDirectory(prefix="plait-mesh-")
        self._folder = Path(self._exit.enter_context(folder))
        try:
            self.start_broker()
            if self._scheduler_wanted:
                self.start_scheduler()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _start(self, name: str, command: Sequence[str]) -> Process:
        return Process(name, command, self._folder / f"{name}.log", self._environment)

    def _stop(self) -> None:
        for process in (self._scheduler, self._broker):
            if process is not None:
                process.terminate(_STOP_S)
        self._scheduler = self._broker = None
        self._exit.close()


class ContractTest:
    """Sends boundary messages through every worker of methods, and compares the answers, as
    `plait contract test` does. It has the effects that the methods have.

        def test_the_workers_agree(plait_contract):
            plait_contract("orders.v1.OrderService", ignore=["create_time"])
    """

    def __init__(
        self, address: str, report: Callable[[str, Sequence[str]], None] | None = None
    ) -> None:
        """Made by the fixture `plait_contract`.

        address: the broker's.
        report: is told each case, as "package.Service/Method: case", and what is wrong with it,
        nothing where all is well; default: the call itself fails in the end.
        """
        self._address = address
        self._report = report

    def __call__(
        self,
        *services: str,
        methods: Sequence[str] = (),
        serve: Sequence[tuple[Any, Callable[[Any, Any], None]]] = (),
        ignore: Sequence[str] = (),
        seed: int | None = None,
        deadline: float = 5.0,
        allow_uncovered: bool = False,
    ) -> None:
        """Tests; raises AssertionError with all that is wrong, LookupError where there is nothing
        to test. Not to be called where an event loop runs.

        services: full names; default: those of the methods, else all that have a contract.
        methods: only these, as "package.Service/Method".
        serve: servicers, each with the function that adds it to a server, as `Worker.serve` takes
        them; each is a worker of its own, beside those that are attached.
        ignore: fields of responses that may differ, such as "order.create_time"; "?": unknown ones.
        seed: adds 50 random cases to each method.
        deadline: seconds that each task has.
        allow_uncovered: whether a worker may go without having answered a case.
        """
        from plait._boundary.plan import Plan

        plan = Plan(
            services=services,
            methods=methods,
            ignore=ignore,
            seed=seed,
            deadline=deadline,
            allow_uncovered=allow_uncovered,
        )
        self._tell(asyncio.run(self._run(plan, serve)))

    async def _run(
        self, plan: Any, serve: Sequence[tuple[Any, Callable[[Any, Any], None]]]
    ) -> "list[Report]":
        from plait import _wire
        from plait._boundary.door import Door
        from plait._boundary.plan import run_plan

        async with contextlib.AsyncExitStack() as stack:
            for servicer, add in serve:
                opened = await stack.enter_async_context(client.connect(self._address))
                worker = opened.worker(name=type(servicer).__name__)
                worker.serve(servicer, add)
                await stack.enter_async_context(worker)
            channel = await stack.enter_async_context(_wire.open_channel(self._address))
            return await run_plan(Door(channel, _START_S), plan)

    def _tell(self, reports: "Sequence[Report]") -> None:
        from plait._boundary.report import failure_lines

        wrong: list[str] = []
        for report in reports:
            failures: dict[str, list[str]] = {case.name: [] for case in report.cases}
            for each in report.failures:
                text = "\n".join(failure_lines(report, each))
                failures.setdefault(each.case, []).append(text)
                wrong.append(f"{report.method}: {text}")
            for name, texts in failures.items():
                if self._report is not None:
                    self._report(f"{report.method}: {name}", texts)
        if wrong and self._report is None:
            raise AssertionError("\n".join(wrong))
