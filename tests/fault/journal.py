"""The journal in which echo workers note each execution of an attempt (ECHO_JOURNAL)."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Execution:
    """One line of the journal, as interop/drivers writes it."""

    language: str
    key: str
    account: str
    number: int
    token: int
    attempt: int
    task: str
    length: int


def executions(journal: Path) -> list[Execution]:
    """The executions in the order in which they happened."""
    if not journal.exists():
        return []
    return [parsed(line) for line in journal.read_text().splitlines()]


def parsed(line: str) -> Execution:
    """A line. Raises ValueError for one that is torn."""
    language, key, account, number, token, attempt, task, length = line.split("\t")
    return Execution(
        language, key, account, int(number), int(token), int(attempt), task, int(length)
    )
