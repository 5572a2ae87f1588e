"""Plait for Python: durable tasks behind the stubs you have.

    async with plait.connect() as p:
        orders = OrderServiceStub(p.channel())
        receipt = await orders.Charge(request)              # durable, waits for the result
        task = await p.submit(orders.Charge, request)       # durable, answers with a handle
        await p.worker().serve(Orders(), add_OrderServiceServicer_to_server).run()

Names are loaded when they are first used, so that the command line starts fast.
"""

import importlib
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plait import breaker, deadline, errors, limiter, retry, testing, trace
    from plait._attempt import Attempt, attempt
    from plait._flags import flag
    from plait._options import CallOptions, options
    from plait._rules import AttemptOptions, DirectOptions, direct_options
    from plait._schedules import ScheduleOptions
    from plait._task import Snapshot, Task, TaskState
    from plait.client import Client, connect
    from plait.worker import Worker

# The generated modules of this package live in another source root.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "AttemptOptions",
    "CallOptions",
    "Client",
    "DirectOptions",
    "ScheduleOptions",
    "Snapshot",
    "Task",
    "TaskState",
    "Worker",
    "attempt",
    "breaker",
    "connect",
    "deadline",
    "direct_options",
    "errors",
    "flag",
    "limiter",
    "options",
    "retry",
    "testing",
    "trace",
]

_HOMES = {
    "Attempt": "plait._attempt",
    "AttemptOptions": "plait._rules",
    "CallOptions": "plait._options",
    "Client": "plait.client",
    "DirectOptions": "plait._rules",
    "ScheduleOptions": "plait._schedules",
    "Snapshot": "plait._task",
    "Task": "plait._task",
    "TaskState": "plait._task",
    "Worker": "plait.worker",
    "attempt": "plait._attempt",
    "connect": "plait.client",
    "direct_options": "plait._rules",
    "flag": "plait._flags",
    "options": "plait._options",
}
_MODULES = {"breaker", "deadline", "errors", "limiter", "retry", "testing", "trace"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"plait.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'plait' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
