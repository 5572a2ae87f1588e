"""The command `plait`. Only click is imported before a command runs, so that it starts at once."""

import importlib
from typing import Any

import click

import plait

# Groups and commands with their help, so that none of their modules is needed to list them.
_COMMANDS = {
    "bench": "Measure throughput and latency.",
    "breaker": "Breakers of methods: list.",
    "call": "Run a method as a durable task and wait for its result.",
    "contract": "Contracts: list, push, check.",
    "dev": "Start broker, scheduler and workers on this machine.",
    "fault": "Faults of direct calls: set, list, clear.",
    "flag": "Feature flags: set, list, get, delete.",
    "gen": "Generate Python code from .proto files.",
    "init": "Start a project: a contract, a worker, a README.",
    "limit": "Limits that an operator sets: set, list, clear.",
    "process": "Local processes: list.",
    "queue": "Queues: list, get, pause, resume.",
    "rollout": "Rollouts of worker versions: start, set, promote, abort, end, get, list.",
    "scheduler": "The scheduler that leads: get.",
    "schedule": "Schedules: create, list, show, next, pause, resume, trigger, backfill, delete.",
    "share": "Weights of tenants that take turns: set, list, clear.",
    "submit": "Submit a method as a durable task and print its id.",
    "task": "Tasks: list, get, watch, cancel, retry.",
    "worker": "Workers: list, get.",
}


class _Lazy(click.Group):
    """Imports a command's module when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"plait.cli.{cmd_name}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(plait.__version__, message="plait %(version)s, contracts plait.v1")
def cli() -> None:
    """Durable tasks behind the stubs you have.

    Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 the task failed, 2 usage,
    3 not found, 4 cannot reach Plait, 5 timed out, 6 conflict or precondition, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line of this process.

    `plait task list | head` is no error: click is quiet about a reader that is gone. The signal
    SIGPIPE stays ignored, since gRPC writes to sockets of its own that may be closed at the end.
    """
    return cli(arguments, prog_name="plait")
