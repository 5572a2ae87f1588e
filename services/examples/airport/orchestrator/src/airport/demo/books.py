"""The end of the demo: counts from the record, the trial balance, the independent check."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airport.reconcile import Difference, Owed, differences, expected
from plait.v1 import task_pb2, task_service_pb2

if TYPE_CHECKING:
    from pathlib import Path

    from airport.v1 import settlement_pb2 as pb
    from plait.v1 import task_service_pb2_grpc

PAGE = 1000


@dataclass
class Counts:
    """What the broker's record says of every task of the demo."""

    submitted: int = 0
    attempts: int = 0
    retried: int = 0
    lost: int = 0
    by_queue: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Tasks and attempts by queue."""


@dataclass(frozen=True)
class Books:
    """Everything that is proved at the end."""

    counts: Counts
    balance: pb.GetTrialBalanceResponse
    year: pb.SettleYearResponse
    differences: list[Difference]
    expected_minor: int

    def problems(self) -> list[str]:
        """What is wrong, in words. Empty: the books are exact."""
        found = [
            f"{d.airline}, month {d.month}: the ledger has {d.ledger}, the files say {d.expected}"
            for d in self.differences
        ]
        debit, credit = self.debit_minor(), self.credit_minor()
        if debit != credit:
            found.append(f"debits are {debit} and credits {credit}")
        if self.year.totals.charged_minor != self.expected_minor:
            found.append(
                f"the report says {self.year.totals.charged_minor}, the files {self.expected_minor}"
            )
        handled = self.year.totals.posted + self.unposted()
        if handled != self.year.totals.rows:
            found.append(f"{self.year.totals.rows} rows were read and {handled} accounted for")
        if self.counts.lost:
            found.append(f"{self.counts.lost} tasks were lost")
        if self.posted_twice():
            found.append(f"{self.posted_twice()} flights were posted twice")
        return found

    def debit_minor(self) -> int:
        """Sum of all debits."""
        return sum(account.debit_minor for account in self.balance.accounts)

    def credit_minor(self) -> int:
        """Sum of all credits."""
        return sum(account.credit_minor for account in self.balance.accounts)

    def unposted(self) -> int:
        """Rows in quarantine for which nothing is booked: all but the cancelled ones."""
        reasons = self.year.totals.quarantined_by_reason
        return sum(count for reason, count in reasons.items() if reason != "CANCELLED")

    def posted_twice(self) -> int:
        """Flights in the ledger beyond those that the flows account for."""
        return sum(month.flights for month in self.balance.airline_months) - self.year.totals.posted


async def count(stub: task_service_pb2_grpc.TaskServiceAsyncStub) -> Counts:
    """Reads every task's record. A task that has not succeeded at the end counts as lost."""
    counts = Counts()
    token = ""
    while True:
        page = await stub.ListTasks(
            task_service_pb2.ListTasksRequest(page_size=PAGE, page_token=token)
        )
        for task in page.tasks:
            _add(counts, task)
        token = page.next_page_token
        if not token:
            return counts


def _add(counts: Counts, task: task_pb2.Task) -> None:
    counts.submitted += 1
    counts.attempts += task.attempt
    counts.retried += max(task.attempt - 1, 0)
    counts.lost += task.state != task_pb2.TASK_STATE_SUCCEEDED
    tasks, attempts = counts.by_queue.get(task.queue, (0, 0))
    counts.by_queue[task.queue] = (tasks + 1, attempts + task.attempt)


def close(
    counts: Counts,
    balance: pb.GetTrialBalanceResponse,
    year: pb.SettleYearResponse,
    tariff: Path,
    flights_max: int,
) -> Books:
    """Holds the ledger against the files."""
    ledger = {
        (one.airline, one.month): Owed(one.charged_minor, one.flights)
        for one in balance.airline_months
    }
    expectation = expected(tariff, flights_max)
    return Books(
        counts=counts,
        balance=balance,
        year=year,
        differences=differences(ledger, expectation),
        expected_minor=sum(owed.charged_minor for owed in expectation.values()),
    )
