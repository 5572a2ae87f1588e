"""What a campaign's clients and workers saw, for the checker that also judges the simulation.

One JSON object a line, as services/broker/sim/README.md has it. A submission is told when it is
asked for, acknowledged and ended; executions are read from the journal that the workers write. The
journal is caught up with before anything that may follow from it is told, so the lines are in the
order of causes, though nobody shares a clock.
"""

import asyncio
import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

from tests.fault.journal import parsed
from tests.fault.outcome import Outcome
from tests.fault.outcome import folder as results
from tests.support.mesh import binaries

APPEND = "/testing.v1.EchoService/Append"
ECHO = "/testing.v1.EchoService/Echo"
SLEEP = "/testing.v1.EchoService/Sleep"
CHECK_S = 300.0
_POLICY = {
    "deadline_ms": 600_000,
    "attempt_timeout_ms": 30_000,
    "max_attempts": 20,
    "max_backoff_ms": 1_000,
    "dead_letter_ms": 0,
    "at_most_once": False,
    "retryable": [2, 4, 8, 10, 13, 14],
}
"""As echo.proto has it."""
METHODS = {
    APPEND: {"queue": "echo.append", "window_ms": 600_000, "retention_ms": 600_000},
    ECHO: {
        "queue": "echo",
        "deadline_ms": 7_200_000,
        "window_ms": 30_000,
        "retention_ms": 30_000,
    },
    SLEEP: {
        "queue": "echo.sleep",
        "attempt_timeout_ms": 5_000,
        "window_ms": 600_000,
        "retention_ms": 600_000,
    },
}


class History:
    """Written as it happens; `check` judges it."""

    def __init__(self, journal: Path, *, zombies: bool = False) -> None:
        """`journal`: where the workers note executions; `zombies`: as in `books.audit`."""
        self.path = journal.with_suffix(".jsonl")
        self._file = self.path.open("w")
        self._journal = journal
        self._read = 0
        self._numbers = itertools.count(1)
        self._of: dict[str, int] = {}
        """The submission of a key."""
        # No worker notes its echoes and naps.
        self.tell("rules", unseen=[ECHO, SLEEP], zombies=zombies)
        for method, rest in METHODS.items():
            self.tell("method", method=method, **(_POLICY | rest))

    def tell(self, event: str, **fields: Any) -> None:
        """One line."""
        line = {"at": round(time.monotonic() * 1000), "event": event, **fields}
        self._file.write(json.dumps(line) + "\n")

    def asked(self, method: str, client: str, **fields: Any) -> int:
        """A submission is asked for; answers its number."""
        number = next(self._numbers)
        if "key" in fields:
            self._of[fields["key"]] = number
        self.tell("submit.invoke", id=number, client=client, method=method, **fields)
        return number

    def acknowledged(self, number: int, task: str) -> None:
        """It is accepted."""
        self.tell("submit.ok", id=number, task=task)

    def refused(self, number: int, reason: str) -> None:
        """It is not accepted."""
        self.tell("submit.fail", id=number, reason=reason)

    def ended(self, task: str, state: str, **fields: Any) -> None:
        """A result came."""
        self._catch_up()
        self.tell("result", task=task, state=state, **fields)

    async def check(self, outcome: Outcome) -> None:
        """What the checker finds are violations, and the file is kept."""
        self._catch_up()
        self._file.close()
        judge = await asyncio.create_subprocess_exec(
            *(str(binaries() / "plait-sim"), "check", str(self.path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(CHECK_S):
            said, _ = await judge.communicate()
        lines = said.decode().splitlines()
        if judge.returncode == 0:
            outcome.figures["history"] = lines[0]
            return
        kept = results() / f"{outcome.campaign}.history.jsonl"
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.path, kept)
        for line in lines:
            outcome.violated(f"{line} (history in {kept.name})")

    def _catch_up(self) -> None:
        """Tells what the workers noted since. A line that is not whole yet comes later."""
        if not self._journal.exists():
            return
        with self._journal.open("rb") as journal:
            journal.seek(self._read)
            fresh = journal.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(whole)
        for text in whole.decode().splitlines():
            line = parsed(text)
            lease = {"task": line.task, "token": line.token}
            more = {"attempt": line.attempt, "worker": line.language, "of": self._of.get(line.key)}
            self.tell("start", **lease, **more)
            self.tell("outcome.invoke", **lease, code=0, digest=str(line.length))
