"""The commands of `plait task`."""

import sys
from typing import Any

import click
import grpc

from plait import _statuses
from plait.cli._api import Api, describe, exit_code, say
from plait.cli._command import Exit, Stop, method_path
from plait.cli._output import age, line, span
from plait.v1 import task_pb2, task_service_pb2

_PAGE = 1000
_COLUMNS = ("ID", "STATE", "METHOD", "ATTEMPT", "AGE", "ERROR")


def filter_of(said: dict[str, str | None]) -> str:
    """The filter and its short forms, joined."""
    parts = [said.pop("filter_", None) or ""]
    for name, value in said.items():
        if value is not None:
            if name == "method":
                value = method_path(value)
            elif name == "state":
                value = value.upper()
            parts.append(f'{name} = "{value}"')
    return " AND ".join(part for part in parts if part)


async def list_tasks(api: Api, filter_: str, limit: int) -> Exit:
    """Pages until there are enough."""
    found: list[task_pb2.Task] = []
    token = ""
    while len(found) < limit:
        answer = await api.tasks.ListTasks(
            task_service_pb2.ListTasksRequest(
                filter=filter_, page_size=min(_PAGE, limit - len(found)), page_token=token
            ),
            timeout=api.timeout,
        )
        found += answer.tasks
        token = answer.next_page_token
        if not token:
            break
    api.output.items("tasks", found, _COLUMNS, (_row(each) for each in found))
    if token and api.output.is_table:
        say(f"there are more than {limit}: --limit, or a narrower --filter")
    return Exit.OK


async def get_task(api: Api, task_id: str) -> Exit:
    """In full, with its messages decoded."""
    request = task_service_pb2.GetTaskRequest(id=task_id, view=task_pb2.TASK_VIEW_FULL)
    task = (await api.tasks.GetTask(request, timeout=api.timeout)).task
    text = await _text(api, task) if api.output.is_table else ""
    api.output.item(task, text)
    return Exit.OK


async def watch_task(api: Api, task_id: str) -> Exit:
    """A line for each change."""
    task = task_pb2.Task()
    request = task_service_pb2.WatchTaskRequest(id=task_id)
    async for answer in api.tasks.WatchTask(request, timeout=api.wait):
        task = answer.task
        click.echo(_watch_line(task) if api.output.is_table else line(task))
    succeeded = task.state == task_pb2.TASK_STATE_SUCCEEDED
    return Exit.OK if succeeded else Exit.TASK_FAILED


async def cancel_tasks(api: Api, task_ids: tuple[str, ...], reason: str) -> Exit:
    """One after the other; goes on after a failure."""
    worst = Exit.OK
    for task_id in task_ids:
        request = task_service_pb2.CancelTaskRequest(id=task_id, reason=reason)
        try:
            task = (await api.tasks.CancelTask(request, timeout=api.timeout)).task
        except grpc.aio.AioRpcError as error:
            say(f"{task_id}: {describe(error, api.address)}")
            worst = exit_code(error)
            continue
        api.output.item(task, f"{task.id} {state_name(task)}")
        if task.state != task_pb2.TASK_STATE_CANCELLED:
            worst = Exit.CONFLICT
    return worst


async def retry_tasks(
    api: Api, task_ids: tuple[str, ...], filter_: str, *, dry_run: bool, yes: bool
) -> Exit:
    """By ids at once; by filter after a count and a question."""
    if bool(task_ids) == bool(filter_):
        raise Stop(Exit.USAGE, "name tasks, or give a --filter")
    request = task_service_pb2.RedriveTasksRequest(
        ids=task_ids, filter=filter_, validate_only=dry_run or bool(filter_)
    )
    answer = await api.tasks.RedriveTasks(request, timeout=api.timeout)
    if filter_ and not dry_run and answer.redriven_count:
        if not yes:
            _confirm(answer.redriven_count)
        request.validate_only = False
        answer = await api.tasks.RedriveTasks(request, timeout=api.timeout)
    verb = "would be run again" if dry_run else "run again"
    api.output.item(answer, f"{answer.redriven_count} {verb}")
    return Exit.OK


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise Stop(Exit.USAGE, f"{count} tasks would be run again; say --yes")
    if not click.confirm(f"Run {count} tasks again?", err=True):
        raise Stop(Exit.USAGE, "nothing was done")


def state_name(task: task_pb2.Task) -> str:
    """ "RUNNING"."""
    return task_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_")


def _row(task: task_pb2.Task) -> tuple[str, ...]:
    return (
        task.id,
        state_name(task),
        task.method.lstrip("/"),
        f"{task.attempt}/{task.max_attempts}",
        age(task.create_time),
        _error(task).partition("\n")[0],
    )


def _watch_line(task: task_pb2.Task) -> str:
    parts = [state_name(task), f"attempt {task.attempt}/{task.max_attempts}"]
    if task.HasField("progress"):
        parts.append(f"{task.progress.fraction:.0%} {task.progress.message}".rstrip())
    if error := _error(task):
        parts.append(error)
    return "  ".join(parts)


def _error(task: task_pb2.Task) -> str:
    if not task.HasField("error"):
        return ""
    return f"{_statuses.code_of(task.error.code).name}: {task.error.message}"


async def _text(api: Api, task: task_pb2.Task) -> str:
    facts: list[tuple[str, Any]] = [
        ("id", task.id),
        ("method", task.method.lstrip("/")),
        ("state", state_name(task)),
        ("queue", task.queue),
        ("attempt", f"{task.attempt} of {task.max_attempts}"),
        ("priority", task.priority),
        ("worker", task.worker),
        ("idempotency key", task.idempotency_key),
        ("ordering key", task.ordering_key),
        ("parent", task.parent),
        ("children", task.child_count or ""),
        ("dead letter", "yes" if task.dead_letter else ""),
        ("error", _error(task)),
        ("metadata", _metadata(task)),
        *(await _payloads(api, task)),
    ]
    width = max(len(name) for name, _ in facts)
    lines = [f"{name:<{width}}  {value}" for name, value in facts if value != ""]
    return "\n".join([*lines, "", *_timeline(task)])


def _metadata(task: task_pb2.Task) -> str:
    return ", ".join(
        f"{each.key}={each.value.hex() if each.key.endswith('-bin') else each.value.decode()}"
        for each in task.metadata
    )


async def _payloads(api: Api, task: task_pb2.Task) -> list[tuple[str, str]]:
    from plait.cli import _messages

    try:
        method = await _messages.find(api, task.method)
    except Stop:
        # Its contract is gone; the bytes are still there.
        return [("request", task.request.hex()), ("response", task.response.hex())]
    response = ""
    if task.state == task_pb2.TASK_STATE_SUCCEEDED:
        response = method.decode(method.response, task.response)
    return [("request", method.decode(method.request, task.request)), ("response", response)]


def _timeline(task: task_pb2.Task) -> list[str]:
    """What happened, each with the time since it was accepted."""
    start = task.create_time.ToDatetime()
    return [
        "  ".join(
            (
                f"+{span((event.time.ToDatetime() - start).total_seconds()):<8}",
                f"{task_pb2.TaskState.Name(event.state).removeprefix('TASK_STATE_'):<10}",
                event.cause,
                f"attempt {event.attempt}" if event.attempt else "",
                event.worker,
            )
        ).rstrip()
        for event in task.events
    ]
