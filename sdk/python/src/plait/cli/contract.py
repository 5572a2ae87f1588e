"""`plait contract`: list, show, log, check, push, test."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from plait.cli._command import Exit, api_command


@click.group("contract")
def contract_command() -> None:
    """Make contracts known and look at them."""


def _options(
    function: Callable[..., Any], options: Sequence[Callable[..., Any]]
) -> Callable[..., Any]:
    for option in reversed(options):
        function = option(function)
    return function


def _sources(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda function: _options(
        function,
        (
            click.argument(
                "files", nargs=-1, required=required, type=click.Path(exists=True, path_type=Path)
            ),
            click.option(
                "-I",
                "--include",
                multiple=True,
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                help="Where imports are, repeatable.  [default: .]",
            ),
            click.option("--service", multiple=True, help="Only these.  [default: all]"),
        ),
    )


@contract_command.command("list")
@api_command
async def list_command(api: Any) -> Exit:
    """List services and their methods."""
    from plait.cli import _contracts

    return await _contracts.list_contracts(api)


@contract_command.command("push")
@_sources()
@click.option(
    "--allow",
    metavar="REASON",
    help="Whatever it breaks. The reason is kept with the decision, and who gave it.",
)
@api_command
async def push_command(
    api: Any,
    files: tuple[Path, ...],
    include: tuple[Path, ...],
    service: tuple[str, ...],
    allow: str | None,
) -> Exit:
    """Make the services of FILES known: .proto files, or one serialized FileDescriptorSet.

    A contract that breaks what is in force, or tasks in flight, is refused: exit code 6. See
    `plait contract check`.

    plait/v1/options.proto and google/rpc need not be on the include path.
    """
    from plait.cli import _contracts

    return await _contracts.push(api, files, include, service, reason=allow)


@contract_command.command("check")
@_sources()
@api_command
async def check_command(
    api: Any, files: tuple[Path, ...], include: tuple[Path, ...], service: tuple[str, ...]
) -> Exit:
    """Show what FILES would change, and change nothing.

    Changes are harmless, or refused while there are tasks that mind (queued, delayed, running,
    between attempts, dead letters, children on record in unfinished flows), or refused. Exit code
    6 when FILES would be refused now.
    """
    from plait.cli import _contracts

    return await _contracts.check(api, files, include, service)


@contract_command.command("show")
@click.argument("service")
@api_command
async def show_command(api: Any, service: str) -> Exit:
    """Show what is in force of a service, what it broke, and who allowed that."""
    from plait.cli import _contracts

    return await _contracts.show(api, service)


@contract_command.command("log")
@click.argument("service")
@api_command
async def log_command(api: Any, service: str) -> Exit:
    """List the decisions on a service, newest first: the last 100."""
    from plait.cli import _reviews

    return await _reviews.show_log(api, service)


def _plan(function: Callable[..., Any]) -> Callable[..., Any]:
    """What is tested, how it is judged, and what is written."""
    several = functools.partial(click.option, multiple=True)
    return _options(
        function,
        (
            several("--method", help="package.Service/Method, repeatable.  [default: all]"),
            several("--case", help="Only cases of this name, repeatable."),
            several("--worker", metavar="NAME", help="Only these, by name or id, repeatable."),
            several("--ignore", metavar="FIELDPATH", help="May differ; ? for unknown fields."),
            click.option("--seed", type=int, help="Adds random cases; equal seeds, equal cases."),
            click.option("--cases", default=50, show_default=True, help="Random ones a method."),
            click.option(
                *("--deadline", "deadline"),
                default=5.0,
                show_default=True,
                type=click.FloatRange(min=0.05),
                metavar="SECONDS",
                help="Of each task.",
            ),
            click.option("--allow-uncovered", is_flag=True, help="Though a worker saw no case."),
            click.option(
                "--junit", type=click.Path(dir_okay=False, path_type=Path), help="Writes JUnit XML."
            ),
            click.option("--json", "as_json", is_flag=True, help="The same as -o json."),
            click.option("--list", "list_only", is_flag=True, help="Prints cases; sends nothing."),
            click.option("--yes", is_flag=True, help="Does not ask: it is a mesh for tests."),
        ),
    )


@contract_command.command("test")
@_sources(required=False)
@_plan
@api_command
async def test_command(
    api: Any,
    files: tuple[Path, ...],
    include: tuple[Path, ...],
    junit: Path | None,
    **said: Any,
) -> Exit:
    """Send boundary messages through every worker of each method, and compare the answers.

    The messages are made from FILES, or from the contracts in force: each field at its edges,
    unset, unknown fields, the largest request, and what the rules of protovalidate allow and
    forbid. Workers must agree on responses, on codes and reasons of errors, and on deadlines; what
    breaks a rule is answered INVALID_ARGUMENT. Exit code 1 when they do not, and when a worker was
    not reached.

    It has the effects that the methods have: point it at a mesh for tests.
    """
    from plait.cli import _contract_test

    return await _contract_test.test(api, files, include, junit, said)
