"""One run of the demo, from nothing to proved books."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from rich.live import Live

import plait
from airport.data import days
from airport.demo import books, chaos, report
from airport.demo.progress import Progress
from airport.demo.stack import Stack
from airport.v1 import settlement_pb2 as pb
from airport.v1 import settlement_pb2_grpc as rpc
from plait.v1 import task_service_pb2, task_service_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

LOOK_SECONDS = 0.25
"""Between two looks at the queues."""

LINE_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""


@dataclass(frozen=True)
class Options:
    """What the user said, and where things are."""

    flights_max: int
    batch_size: int
    binaries: Path
    folder: Path
    tariff: Path
    latency: str
    fail_permille: int
    kill: bool


async def run(options: Options, console: Console) -> int:
    """Settles the year; 0 when the books are exact, else 1."""
    if options.folder.exists():
        shutil.rmtree(options.folder)
    options.folder.mkdir(parents=True)
    count = sum(day.row_count for day in days(options.flights_max))
    progress = Progress(len(days(options.flights_max)))
    console.print(
        f"Settling {count:,} flights of {progress.days} days.\nAll is kept in {options.folder}."
    )
    stack = Stack(
        options.binaries, options.folder, options.tariff, options.latency, options.fail_permille
    )
    async with stack, plait.connect(stack.address) as mesh:
        started = time.monotonic()
        year = await _settle(options, mesh, stack, progress, console)
        seconds = time.monotonic() - started
        ledger = rpc.LedgerServiceStub(mesh.channel())
        balance = await ledger.GetTrialBalance(pb.GetTrialBalanceRequest())
        async with grpc.aio.insecure_channel(stack.address) as channel:
            counts = await books.count(task_service_pb2_grpc.TaskServiceStub(channel))
    console.print(f"\nSettled in {seconds:.1f} s. Closing the books.\n")
    closed = await asyncio.to_thread(
        books.close, counts, balance, year, options.tariff, options.flights_max
    )
    return _show(closed, progress, options, console)


async def _settle(
    options: Options, mesh: plait.Client, stack: Stack, progress: Progress, console: Console
) -> pb.SettleYearResponse:
    stub = rpc.SettlementServiceStub(mesh.channel())
    request = pb.SettleYearRequest(
        run="demo", flights_max=options.flights_max, batch_size=options.batch_size
    )
    task = await mesh.submit(stub.SettleYear, request)
    console.print(f"Submitted {task.id}: airport.v1.SettlementService/SettleYear")
    helpers = [asyncio.create_task(_look(stack.address, progress, console))]
    if options.kill:

        def say(text: str) -> None:
            console.print(f"[bold red]{text}[/]")

        helpers.append(asyncio.create_task(chaos.run(stack, progress, say)))
    try:
        return await task.result()
    finally:
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)


async def _look(address: str, progress: Progress, console: Console) -> None:
    """Looks at the queues and shows them, live on a terminal, else a line now and then."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = task_service_pb2_grpc.TaskServiceStub(channel)
        with contextlib.ExitStack() as stack:
            live = None
            if console.is_terminal:
                live = stack.enter_context(Live(console=console, refresh_per_second=8))
            told = -LINE_SECONDS
            while True:
                progress.see(await _queues(stub))
                if live:
                    live.update(progress.table())
                elif time.monotonic() - told >= LINE_SECONDS:
                    told = time.monotonic()
                    console.print(progress.line(), highlight=False)
                await asyncio.sleep(LOOK_SECONDS)


async def _queues(
    stub: task_service_pb2_grpc.TaskServiceAsyncStub,
) -> task_service_pb2.ListQueuesResponse | None:
    try:
        return await stub.ListQueues(task_service_pb2.ListQueuesRequest(), timeout=2)
    except grpc.aio.AioRpcError:
        return None  # the broker was killed; it comes back


def _show(closed: books.Books, progress: Progress, options: Options, console: Console) -> int:
    chart, page = options.folder / "progress.png", options.folder / "report.html"
    report.chart(progress, chart)
    report.page(closed, progress, chart.name, page)
    console.print(report.counts(closed))
    console.print(report.trial_balance(closed))
    console.print(report.reconciliation(closed))
    console.print(f"Chart: {chart}\nReport: {page}")
    for problem in closed.problems():
        console.print(f"[bold red]wrong:[/] {problem}")
    return 1 if closed.problems() else 0
