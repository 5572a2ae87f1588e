"""The command `dev`: broker, scheduler and workers on one machine, restarted when they die."""

import argparse
import asyncio
import json
import os
import random
import re
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait import trace
from plait._processes import find_broker
from plait_scheduler.dev import child
from plait_scheduler.dev.printer import Printer, wants_colour
from plait_scheduler.domain.scaling import ScalingConfig
from plait_scheduler.logs import configure_logs
from plait_scheduler.loops.process import ProcessSpec
from plait_scheduler.loops.scaled_worker import ScaledWorker
from plait_scheduler.loops.supervisor import SupervisorConfig, SupervisorEvents, SupervisorLoop
from plait_scheduler.scheduler import Scheduler, Supervised
from plait_scheduler.settings import Settings

BROKER = "broker"
SCHEDULER = "scheduler"
START_SECONDS = 30.0
# What a shell says of a program that Ctrl-C ended.
INTERRUPTED = 130
WORKER_FORM = "[NAME[:LEAST..MOST]=]COMMAND"
PROCESSES_MAX = 100
_NAMED = re.compile(r"([a-z][a-z0-9-]*)(?::([0-9.]+))?=(.+)", re.DOTALL)
_PROCESSES = re.compile(r"([0-9]{1,3})(?:\.\.([0-9]{1,3}))?")
_SHELL = re.compile(r"[|&;<>()$`*?\[\]{}~#\n]|^\s*\w+=")


class DevError(Exception):
    """It cannot start; the text says why."""


@dataclass(frozen=True, slots=True)
class DevWorker:
    """A worker to run."""

    command: str
    # Of its processes, how many there may be.
    scaling: ScalingConfig


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What the user said."""

    data_dir: Path
    listen: str
    scheduler_listen: str
    # By name.
    workers: Mapping[str, DevWorker]
    grace_seconds: float
    log_level: str


def main(arguments: Sequence[str]) -> int:
    """Runs until SIGINT or SIGTERM. Returns the exit code."""
    options = _options(arguments)
    try:
        return asyncio.run(_run(options))
    except (DevError, FileNotFoundError) as error:
        sys.stderr.write(f"plait dev: {error}\n")
        return 1


async def _run(options: DevOptions) -> int:
    return await _Dev(options, os.environ).run()


def _options(arguments: Sequence[str]) -> DevOptions:
    parser = argparse.ArgumentParser(
        prog="python -m plait_scheduler dev",
        description="Broker, scheduler and workers on this machine; what dies is started again.",
    )
    add = parser.add_argument
    add("--data-dir", type=Path, default=_data_dir(os.environ), metavar="PATH", help="is kept")
    add("--listen", default="127.0.0.1:7420", metavar="HOST:PORT", help="of the broker")
    add("--scheduler-listen", default="127.0.0.1:0", metavar="HOST:PORT")
    add("--worker", action="append", default=[], metavar=WORKER_FORM, help="may be repeated")
    add("--processes", default="1", metavar="LEAST[..MOST]", help="of workers that do not say (1)")
    add("--grace-seconds", type=float, default=30.0, metavar="N", help="for workers to drain")
    add("--log-level", default="info", metavar="LEVEL", help="of the scheduler")
    found = parser.parse_args(arguments)
    try:
        workers = _named(found.worker, _scaling(found.processes))
    except ValueError as error:
        parser.error(str(error))
    return DevOptions(
        found.data_dir,
        found.listen,
        found.scheduler_listen,
        workers,
        found.grace_seconds,
        found.log_level,
    )


def _data_dir(environment: Mapping[str, str]) -> Path:
    if named := environment.get("PLAIT_DATA_DIR"):
        return Path(named)
    home = environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "plait"


def _named(workers: Sequence[str], default: ScalingConfig) -> dict[str, DevWorker]:
    """Workers by name: "ledger=cargo run" has one, others are numbered; "ledger:1..4=cargo run" has
    one to four processes. Raises ValueError.
    """
    named: dict[str, DevWorker] = {}
    for number, worker in enumerate(workers, 1):
        match = _NAMED.fullmatch(worker)
        name, processes, command = match.groups() if match else (f"worker-{number}", None, worker)
        if name in named or name in (BROKER, SCHEDULER):
            raise ValueError(f'the name "{name}" is taken')
        named[name] = DevWorker(command, _scaling(processes) if processes else default)
    for name in named:
        several, _, digits = name.rpartition("-")
        if digits.isdigit() and several in named and named[several].scaling.most > 1:
            raise ValueError(f'the name "{name}" is that of a process of "{several}"')
    return named


def _scaling(processes: str) -> ScalingConfig:
    """So many processes, or from so many to so many. Raises ValueError."""
    match = _PROCESSES.fullmatch(processes)
    least, most = map(int, (match[1], match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most <= PROCESSES_MAX:
        raise ValueError(
            f'"{processes}" is no number of processes: 2, or 1..4, at most {PROCESSES_MAX}'
        )
    return ScalingConfig(least, most)


class _Dev:
    """One run."""

    def __init__(self, options: DevOptions, environment: Mapping[str, str]) -> None:
        self._options = options
        self._environment = environment
        self._binary = find_broker(environment)
        colour = wants_colour(sys.stderr, environment)
        self._printer = Printer(sys.stderr, [BROKER, SCHEDULER, *options.workers], colour)
        trace.configure(SCHEDULER)
        configure_logs("console", options.log_level, self._printer.file(SCHEDULER), colour)
        self._supervisor = SupervisorLoop(
            SupervisorConfig(),
            SupervisorEvents(self._on_line, self._on_death, self._on_start),
            random.random,
        )
        self._workers = [self._scaled(name, worker) for name, worker in options.workers.items()]
        self._stopping = asyncio.Event()
        # Where workers find the broker, once it is ready.
        self._address = ""
        self._broker_ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        failure: DevError | None = None
        async with asyncio.TaskGroup() as group:
            supervising = group.create_task(self._supervisor.run())
            stopped = group.create_task(self._stopping.wait())
            try:
                await self._run(group, stopped)
            except DevError as error:
                # Not out of the group, which would wrap it.
                failure = error
            finally:
                await self._supervisor.end()
                supervising.cancel()
                stopped.cancel()
        if failure is not None:
            raise failure
        return 0

    async def _run(self, group: asyncio.TaskGroup, stopped: asyncio.Task[Any]) -> None:
        self._options.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._supervisor.add(self._broker(self._options.listen))
        address = await _first(self._broker_ready, stopped, "the broker is not ready")
        if address is None:
            return
        # From now on it comes back where the others know it.
        self._supervisor.add(self._broker(address))
        self._address = address
        stop_scheduler = asyncio.Event()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        scheduling = group.create_task(self._schedule(address, stop_scheduler, ready))
        try:
            scheduler_address = await _first(ready, stopped, "the scheduler is not ready")
            if scheduler_address is not None:
                for worker in self._workers:
                    worker.scale(worker.config.least)
                self._tell(address, scheduler_address)
                await stopped
        finally:
            await asyncio.gather(*(worker.stop() for worker in self._workers))
            stop_scheduler.set()
            await asyncio.wait([scheduling])
            await self._supervisor.stop(BROKER)

    async def _schedule(
        self, broker: str, stopping: asyncio.Event, ready: asyncio.Future[str]
    ) -> None:
        settings = Settings(broker=broker, listen=self._options.scheduler_listen, dev=True)
        try:
            await Scheduler(settings, self._supervised()).run(stopping, ready.set_result)
        except RuntimeError as error:
            ready.set_exception(DevError(f"the scheduler: {error}"))

    def _broker(self, listen: str) -> ProcessSpec:
        data_dir = self._options.data_dir / "broker"
        arguments = ["--dev", "--listen", listen, "--data-dir", str(data_dir)]
        return self._spec(BROKER, [str(self._binary), *arguments], {})

    def _supervised(self) -> Supervised:
        """What the scheduler is told of our processes, and does with them."""
        scaled = [each.local() for each in self._workers if each.config.least < each.config.most]
        return Supervised(scaled, self._supervisor.lost, self._supervisor.processes)

    def _scaled(self, name: str, worker: DevWorker) -> ScaledWorker:
        def spec(process: str) -> ProcessSpec:
            return self._worker(process, name, worker.command)

        return ScaledWorker(name, worker.scaling, self._supervisor, spec)

    def _worker(self, name: str, worker: str, command: str) -> ProcessSpec:
        arguments = ["/bin/sh", "-c", command] if _SHELL.search(command) else shlex.split(command)
        # A pipe is no terminal; without this Python would keep its lines to itself.
        more = {"PLAIT_ADDRESS": self._address, "PYTHONUNBUFFERED": "1"}
        return self._spec(name, arguments, more, worker)

    def _spec(
        self, name: str, command: Sequence[str], more: Mapping[str, str], worker: str = ""
    ) -> ProcessSpec:
        # -S -E: this Python only turns into the command, as quickly as it can.
        become = [sys.executable, "-S", "-E", child.__file__, str(os.getpid())]
        environment = {**self._environment, **more}
        return ProcessSpec(
            name, [*become, *command], environment, self._options.grace_seconds, worker
        )

    def _on_line(self, name: str, line: str) -> None:
        address = _ready_address(line) if name == BROKER else None
        if address is None:
            self._printer.line(name, line)
        elif not self._broker_ready.done():
            self._broker_ready.set_result(address)

    def _on_start(self, name: str, pid: int) -> None:
        _report({"event": "started", "process": name, "pid": pid})

    def _on_death(self, name: str, code: int) -> None:
        if name == BROKER and not self._broker_ready.done():
            self._broker_ready.set_exception(
                DevError(f"the broker ended with code {code} before it was ready")
            )

    def _on_signal(self) -> None:
        """The first signal stops everything in order, the second one at once."""
        if self._stopping.is_set():
            self._supervisor.kill_now()
            os._exit(INTERRUPTED)
        sys.stderr.write("plait dev is stopping; Ctrl-C again to stop at once\n")
        self._stopping.set()

    def _tell(self, address: str, scheduler_address: str) -> None:
        """Where everything is: for people on stderr, for programs on stdout."""
        lines = [
            "plait dev is up; Ctrl-C stops it",
            f"  broker     {address} (PLAIT_ADDRESS)",
            f"  scheduler  {scheduler_address}",
            f"  data       {self._options.data_dir.resolve()}",
            f"  workers    {', '.join(self._options.workers) or 'none'}",
        ]
        sys.stderr.write("\n".join(lines) + "\n")
        ready = {
            "event": "ready",
            "process": "dev",
            "address": address,
            "scheduler": scheduler_address,
            "data_dir": str(self._options.data_dir.resolve()),
        }
        _report(ready)


def _report(event: Mapping[str, Any]) -> None:
    """An event for the program that started this one; people read stderr."""
    if not sys.stdout.isatty():
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


async def _first(
    future: asyncio.Future[str], stopped: asyncio.Task[Any], failure: str
) -> str | None:
    """The result, or None where the user stops before. Raises DevError after the start's time."""
    await asyncio.wait(
        [future, stopped], timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    if future.done():
        return future.result()
    if stopped.done():
        return None
    raise DevError(f"{failure} after {START_SECONDS:g} s")


def _ready_address(line: str) -> str | None:
    """The address in a readiness line; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    if said.get("event") != "ready" or not isinstance(said.get("address"), str):
        return None
    return str(said["address"])
