"""Flows: a handler that makes durable calls is the parent of the tasks that they become."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from plait.v1 import task_pb2

if TYPE_CHECKING:
    from plait._spans import Headers
    from plait._submission import Submission
    from plait.v1.flag_service_pb2 import FlagRule


class Flow:
    """The children of one attempt: who is asked for and not final.

    While there are any, the broker counts the flow as SUSPENDED and its slot is free
    (docs/protocol.md §5).
    """

    __slots__ = (
        "_forget", "_headers", "_on_change", "_on_wait", "_options", "_read", "children", "parent",
        "waits",
    )  # fmt: skip

    def __init__(
        self,
        lease: tuple[int, int],
        on_change: Callable[[bool], None],
        forget: "Callable[[Submission], None]",
        on_wait: Callable[[], None],
    ) -> None:
        """`on_change` is told True when the flow begins to wait for children and False when none is
        left.

        `forget` tells the session that a child's result is no longer wanted. `on_wait` is called
        when the handler is about to stand still for a child's result.
        """
        self.parent = task_pb2.FlowParent(task=lease[0], token=lease[1])
        self._read: Mapping[str, FlagRule] | None = None
        self._forget = forget
        self.children: set[Submission] = set()
        # How many of its coroutines stand still for a child's result: who asks may also go on.
        self.waits = 0
        self._on_change = on_change
        self._on_wait = on_wait
        self._headers: Headers = ()
        self._options: task_pb2.TaskOptions | None = None

    def has_read(self, flags: "Mapping[str, FlagRule]") -> None:
        """These are the feature flags that its handler has read so far: what it asks for next may
        depend on them, so they are kept with the child."""
        if flags is not self._read:
            self._read = flags
            self._options = None
            del self.parent.flags[:]
            self.parent.flags.extend(flags.values())

    def child_started(self, child: "Submission") -> None:
        """A child is asked for."""
        if not self.children:
            self._on_change(True)
        self.children.add(child)

    def child_ended(self, child: "Submission") -> None:
        """A child is final, refused, or no longer wanted."""
        if child in self.children:
            self.children.remove(child)
            if not self.children:
                self._on_change(False)

    def wait_began(self) -> None:
        """A coroutine of the handler waits for a child; `waits` is counted down when it goes on."""
        self.waits += 1
        if self.waits == 1:
            self._on_wait()

    def options(self, headers: "Headers") -> task_pb2.TaskOptions:
        """Options of a child about which nothing else is said; shared, so not to be changed."""
        if self._options is None or headers != self._headers:
            self._headers = headers
            self._options = task_pb2.TaskOptions(parent=self.parent)
            for key, value in headers:
                self._options.metadata.add(key=key, value=value.encode())
        return self._options

    def abandon(self) -> None:
        """The handler has ended: no child is waited for any more."""
        for child in list(self.children):
            self._forget(child)
