"""python -m interop.runner: runs the cases, prints the matrix, fails when something is unexpected.

python -m interop.runner                                   everything
python -m interop.runner --clients go --workers rust       one pair
python -m interop.runner --case 'errors/*'                 some cases
python -m interop.runner --case 'versions/*'               old and new builds
python -m interop.runner --write                           interop/RESULTS.md, FEATURES.md too
"""

import argparse
import asyncio
import fnmatch
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from interop.runner import report, versions
from interop.runner.cases import Case, load
from interop.runner.processes import Client, Mesh, driver
from interop.runner.report import Result
from interop.runner.steps import Run

LANGUAGES = ("python", "go", "rust", "typescript")
CLIENTS = (*LANGUAGES, "reference")
WORKERS = (*LANGUAGES, "sidecar", "reference")
RING = (
    *zip(LANGUAGES, (*LANGUAGES[1:], LANGUAGES[0]), strict=True),
    ("reference", "sidecar"),
    ("python", "reference"),
)
"""Pairs in which everybody is a client and a worker at least once."""
AT_ONCE = 16
"""Cases that run side by side."""
MESHES_AT_ONCE = 2
"""Most cases wait for something most of the time."""


def main() -> int:
    options = _parse()
    cases = [case for case in load() if fnmatch.fnmatch(case.id, options.case)]
    by_version = fnmatch.filter([f"{versions.SUITE}/{it}" for it in versions.CASES], options.case)
    if not cases and not by_version:
        print(f"no case is named {options.case}", file=sys.stderr)
        return 2
    pairs = [(client, worker) for worker in options.workers for client in options.clients]
    if options.ring:
        pairs = list(RING)
    results = asyncio.run(run(pairs, cases)) if cases else []
    if by_version:
        results += asyncio.run(_versions(options.clients, options.workers))
    verdict = report.judge(results, report.load_known())
    for result in verdict.unexpected:
        print(f"FAILED {result.client} -> {result.worker} {result.case}: {result.failure}")
    for known in verdict.passed_all_the_same:
        print(f"PASSED, though expected to fail: {known.case} {known.client} -> {known.worker}")
    print(report.matrix(verdict))
    print(report.version_matrix(verdict))
    if options.write:
        report.write(verdict)
    return 0 if verdict.ok else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="interop", description=__doc__)
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=CLIENTS)
    parser.add_argument("--workers", nargs="+", choices=WORKERS, default=WORKERS)
    parser.add_argument(
        "--ring",
        action="store_true",
        help="each language with the next, the reference with the rest",
    )
    parser.add_argument("--case", default="*", help="a pattern of names, as the shell's")
    parser.add_argument(
        "--write", action="store_true", help="write interop/RESULTS.md and each FEATURES.md"
    )
    return parser.parse_args()


async def run(pairs: Sequence[tuple[str, str]], cases: Sequence[Case]) -> list[Result]:
    """Every case with every pair of client and worker: a mesh for each worker, two side by side."""
    room = asyncio.Semaphore(MESHES_AT_ONCE)
    workers = list(dict.fromkeys(worker for _, worker in pairs))
    with tempfile.TemporaryDirectory() as folder:

        async def one(worker: str) -> list[Result]:
            clients = [client for client, its in pairs if its == worker]
            async with room:
                return await _worker(worker, clients, cases, Path(folder))

        # One that breaks off takes the others with it, and their processes.
        async with asyncio.TaskGroup() as group:
            each = [group.create_task(one(worker)) for worker in workers]
    return [result for done in each for result in done.result()]


async def _versions(clients: Sequence[str], workers: Sequence[str]) -> list[Result]:
    """Old and new builds: every SDK, and the sidecar as a worker, in a ring as well."""
    with tempfile.TemporaryDirectory() as folder:
        callers = [client for client in clients if client in LANGUAGES]
        its = [worker for worker in workers if worker in (*LANGUAGES, "sidecar")]
        return await versions.run(callers, its, Path(folder))


async def _worker(
    worker: str, clients: Sequence[str], cases: Sequence[Case], home: Path
) -> list[Result]:
    results: list[Result] = []
    async with Mesh(home, driver(worker)) as mesh:
        for client in clients:
            began = time.monotonic()
            results += await _pair(client, worker, cases, mesh, home)
            took = time.monotonic() - began
            print(f"{client} -> {worker}: {len(cases)} cases in {took:.1f} s", flush=True)
    return results


async def _pair(
    client: str, worker: str, cases: Sequence[Case], mesh: Mesh, home: Path
) -> list[Result]:
    room = asyncio.Semaphore(AT_ONCE)
    numbers = itertools.count(1)
    opened = await Client.start(
        driver(client), mesh.address, home / f"client-{client}-{worker}.log"
    )

    async def one(case: Case) -> Result:
        name = f"{client}-{worker}-{next(numbers)}"
        began = time.monotonic()
        failure = await Run(case, opened, mesh, name).run()
        return Result(client, worker, case.id, failure, time.monotonic() - began)

    async def guarded(case: Case) -> Result:
        async with room:
            return await one(case)

    try:
        together = [guarded(case) for case in cases if not case.alone]
        results = await asyncio.gather(*together)
        return results + [await one(case) for case in cases if case.alone]
    finally:
        await opened.close()


if __name__ == "__main__":
    sys.exit(main())
