"""The tasks of the broker in this process: what tests say is in flight."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc

from plait.v1 import task_pb2
from plait.v1 import task_service_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class FakeTasks:
    """All tasks are in one queue, with every method in force."""

    def __init__(self, methods: Callable[[], list[str]]) -> None:
        self._methods = methods
        # Newest first.
        self.held: list[task_pb2.Task] = []
        # Filters that they were listed by.
        self.filters: list[str] = []
        # What the next lists answer instead.
        self.failures: list[grpc.StatusCode] = []

    def handler(self) -> grpc.GenericRpcHandler:
        """The two methods that are asked for."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "ListQueues": grpc.unary_unary_rpc_method_handler(
                self._list_queues,
                pb.ListQueuesRequest.FromString,
                pb.ListQueuesResponse.SerializeToString,
            ),
            "ListTasks": grpc.unary_unary_rpc_method_handler(
                self._list_tasks,
                pb.ListTasksRequest.FromString,
                pb.ListTasksResponse.SerializeToString,
            ),
        }
        return grpc.method_handlers_generic_handler("plait.v1.TaskService", handlers)

    async def _list_queues(self, _: pb.ListQueuesRequest, __: Context) -> pb.ListQueuesResponse:
        counts = Counter(task.state for task in self.held)
        queue = pb.Queue(
            name="q",
            counts=[pb.StateCount(state=state, count=n) for state, n in counts.items()],
            dead_letter_count=sum(task.dead_letter for task in self.held),
            methods=self._methods(),
        )
        return pb.ListQueuesResponse(queues=[queue])

    async def _list_tasks(
        self, request: pb.ListTasksRequest, context: Context
    ) -> pb.ListTasksResponse:
        if self.failures:
            await context.abort(self.failures.pop(0), "as told")
        self.filters.append(request.filter)
        found = [task for task in self.held if _accepts(request.filter, task)]
        start = int(request.page_token or 0)
        end = start + request.page_size
        return pb.ListTasksResponse(
            tasks=found[start:end], next_page_token=str(end) if end < len(found) else ""
        )


def _accepts(where: str, task: task_pb2.Task) -> bool:
    return all(_holds(task, *term.split()) for term in where.split(" AND "))


def _holds(task: task_pb2.Task, field: str, sign: str, value: str) -> bool:
    """One of the terms that the scheduler uses."""
    found: Any = getattr(task, field)
    if sign == ">=":
        return bool(found >= int(value))
    if field == "state":
        found = task_pb2.TaskState.Name(found).removeprefix("TASK_STATE_")
    elif isinstance(found, bool):
        found = str(found).lower()
    equal: bool = found == value.strip('"')
    return equal == (sign == "=")
