"""The commands of `plait queue`."""

from plait.cli import _limits
from plait.cli._api import Api
from plait.cli._command import Exit
from plait.cli._output import age, as_dict
from plait.v1 import task_pb2, task_service_pb2

_COLUMNS = ("QUEUE", "READY", "RUNNING", "WAITING", "DEAD", "OLDEST", "WORKERS", "")
_WAITING = (
    task_pb2.TASK_STATE_SCHEDULED,
    task_pb2.TASK_STATE_BACKOFF,
    task_pb2.TASK_STATE_SUSPENDED,
)


async def list_queues(api: Api) -> Exit:
    """All of them."""
    found: list[task_service_pb2.Queue] = []
    token = ""
    while True:
        request = task_service_pb2.ListQueuesRequest(page_token=token)
        answer = await api.tasks.ListQueues(request, timeout=api.timeout)
        found += answer.queues
        token = answer.next_page_token
        if not token:
            break
    api.output.items("queues", found, _COLUMNS, (_row(each) for each in found))
    return Exit.OK


async def get_queue(api: Api, name: str) -> Exit:
    """One, with its methods and what an operator has set of them."""
    request = task_service_pb2.GetQueueRequest(name=name)
    queue = (await api.tasks.GetQueue(request, timeout=api.timeout)).queue
    limited = await _limits.of_methods(api, queue.methods)
    lines = [_text(queue), *(f"  {_limits.line(each)}" for each in limited)]
    value = {**as_dict(queue), "limits": [as_dict(each) for each in limited]}
    api.output.data(value, "\n".join(lines))
    return Exit.OK


async def pause_queue(api: Api, name: str, reason: str) -> Exit:
    """Shows it as it is then."""
    request = task_service_pb2.PauseQueueRequest(name=name, reason=reason)
    _show(api, (await api.tasks.PauseQueue(request, timeout=api.timeout)).queue)
    return Exit.OK


async def resume_queue(api: Api, name: str) -> Exit:
    """Shows it as it is then."""
    request = task_service_pb2.ResumeQueueRequest(name=name)
    _show(api, (await api.tasks.ResumeQueue(request, timeout=api.timeout)).queue)
    return Exit.OK


def _count(queue: task_service_pb2.Queue, *states: int) -> int:
    return sum(each.count for each in queue.counts if each.state in states)


def _row(queue: task_service_pb2.Queue) -> tuple[str, ...]:
    return (
        queue.name,
        str(_count(queue, task_pb2.TASK_STATE_READY, task_pb2.TASK_STATE_PARKED)),
        str(_count(queue, task_pb2.TASK_STATE_RUNNING)),
        str(_count(queue, *_WAITING)),
        str(queue.dead_letter_count),
        age(queue.oldest_ready_time),
        str(queue.worker_count),
        "paused" if queue.paused else _held(queue),
    )


def _held(queue: task_service_pb2.Queue) -> str:
    held = sum(each.count for each in queue.held)
    return f"{held} held by limits" if held else ""


def _limit(held: task_service_pb2.HeldCount) -> str:
    by = task_service_pb2.HeldBy.Name(held.by).removeprefix("HELD_BY_")
    return f"  {held.method.lstrip('/')}: {held.count} held by {by.lower().replace('_', ' ')}"


def _show(api: Api, queue: task_service_pb2.Queue) -> None:
    api.output.item(queue, _text(queue))


def _text(queue: task_service_pb2.Queue) -> str:
    counts = [
        f"  {task_pb2.TaskState.Name(each.state).removeprefix('TASK_STATE_'):<10} {each.count}"
        for each in queue.counts
        if each.count
    ]
    lines = [
        f"{queue.name}{' (paused)' if queue.paused else ''}",
        *counts,
        f"  dead letters {queue.dead_letter_count}, workers {queue.worker_count}",
        *(f"  {method.lstrip('/')}" for method in queue.methods),
        *(_limit(each) for each in queue.held),
    ]
    return "\n".join(lines)
