"""The command `plait contract test`."""

import asyncio
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from plait._boundary.cases import DEFAULT_LIMIT
from plait._boundary.door import Door, NothingToTest
from plait._boundary.plan import Contract, Plan, Run, Subject, in_force, subjects_of
from plait._boundary.report import as_data, junit, summary
from plait.cli._api import Api, say
from plait.cli._command import Exit, Stop, split_method
from plait.cli._contracts import read_files, services_of
from plait.cli._output import Output


async def test(
    api: Api,
    files: Sequence[Path],
    includes: Sequence[Path],
    junit_file: Path | None,
    said: dict[str, Any],
) -> Exit:
    """Tests, prints, and writes the JUnit file; or prints the cases."""
    if said["as_json"]:
        api.output = Output("json")
    list_only: bool = said["list_only"]
    plan = Plan(
        services=said["service"],
        methods=["/".join(split_method(each)) for each in said["method"]],
        cases=said["case"],
        workers=said["worker"],
        ignore=said["ignore"],
        seed=said["seed"],
        count=said["cases"],
        deadline=said["deadline"],
        allow_uncovered=said["allow_uncovered"],
    )
    door = Door(api.channel, api.timeout)
    try:
        subjects = await _subjects(door, files, includes, plan, offline=list_only)
        if list_only:
            return _list(api, subjects)
        run = Run(door, plan, subjects)
        _confirm(api, await run.prepare(), yes=said["yes"])
        reports = await run.reports()
    except NothingToTest as error:
        raise Stop(Exit.NOT_FOUND, str(error)) from error
    command = f"plait contract test --address {api.address} --yes"
    data = {"methods": [as_data(each) for each in reports]}
    api.output.data(data, summary(reports, _with_flags(command, files, includes, plan)))
    if junit_file is not None:
        await asyncio.to_thread(junit_file.write_bytes, junit(reports))
    return Exit.TASK_FAILED if any(each.failures for each in reports) else Exit.OK


async def _subjects(
    door: Door, files: Sequence[Path], includes: Sequence[Path], plan: Plan, *, offline: bool
) -> list[Subject]:
    """The methods; the cases of files can be listed without a mesh."""
    if not files:
        contracts: list[Contract] = [each async for each in in_force(door, plan)]
    else:
        contract = read_files(files, includes)
        services = services_of(contract, files, includes, plan.services)
        contracts = [(contract.SerializeToString(), services)]
    limit = DEFAULT_LIMIT if files and offline else await door.payload_bytes_max()
    return subjects_of(contracts, plan, limit)


def _with_flags(command: str, files: Sequence[Path], includes: Sequence[Path], plan: Plan) -> str:
    """What else decides how the one case comes out."""
    flags = [*(f"--ignore '{each}'" for each in plan.ignore), f"--deadline {plan.deadline:g}"]
    if plan.seed is not None:
        flags.append(f"--seed {plan.seed} --cases {plan.count}")
    flags += [f"-I {each}" for each in includes]
    return " ".join([command, *flags, *map(str, files)])


def _list(api: Api, subjects: Iterable[Subject]) -> Exit:
    found = {
        subject.name: [
            {"name": case.name, "bytes": len(case.payload), "breaks": case.breaks}
            for case in subject.cases
        ]
        for subject in subjects
    }
    lines = [f"{method}  {case['name']}" for method, cases in found.items() for case in cases]
    api.output.data({"methods": found}, "\n".join(lines))
    return Exit.OK


def _confirm(api: Api, risky: Sequence[str], *, yes: bool) -> None:
    """Whoever points it at a mesh that matters is to notice."""
    if not risky:
        return
    say(f"these methods declare no idempotence, and will run many times at {api.address}:")
    for name in risky:
        say(f"  {name}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise Stop(Exit.USAGE, "say --yes if that is a mesh for tests")
    if not click.confirm("Is that a mesh for tests?", err=True):
        raise Stop(Exit.USAGE, "nothing was sent")
