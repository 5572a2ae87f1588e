"""The demo fails loudly: every way in which the books can be wrong is told."""

from __future__ import annotations

from airport.demo.books import Books, Counts
from airport.reconcile import Difference, Owed
from airport.v1 import settlement_pb2 as pb


def exact() -> Books:
    """Books in which everything fits."""
    balance = pb.GetTrialBalanceResponse(
        accounts=[
            pb.AccountBalance(account="receivable:UA", debit_minor=120, credit_minor=20),
            pb.AccountBalance(account="revenue:landing", debit_minor=20, credit_minor=120),
        ],
        airline_months=[pb.AirlineMonth(airline="UA", month=1, charged_minor=100, flights=3)],
    )
    totals = pb.Totals(
        rows=4,
        posted=3,
        quarantined=2,
        quarantined_by_reason={"CANCELLED": 1, "ARRIVAL_UNKNOWN": 1},
        charged_minor=100,
    )
    return Books(
        counts=Counts(submitted=5, attempts=6, retried=1),
        balance=balance,
        year=pb.SettleYearResponse(totals=totals),
        differences=[],
        expected_minor=100,
    )


def test_exact_books_have_no_problem():
    assert exact().problems() == []


def test_unbalanced_ledger_is_told():
    books = exact()
    books.balance.accounts[0].debit_minor += 1
    assert books.problems() == ["debits are 141 and credits 140"]


def test_flight_posted_twice_is_told():
    books = exact()
    books.balance.airline_months[0].flights += 1
    assert books.problems() == ["1 flights were posted twice"]


def test_lost_task_and_lost_row_are_told():
    books = exact()
    books.counts.lost = 2
    books.year.totals.rows += 1
    assert books.problems() == ["5 rows were read and 4 accounted for", "2 tasks were lost"]


def test_report_that_differs_from_the_files_is_told():
    books = exact()
    books.year.totals.charged_minor += 1
    assert books.problems() == ["the report says 101, the files 100"]


def test_each_difference_is_told():
    books = exact()
    books.differences.append(Difference("UA", 1, Owed(100, 3), Owed(101, 3)))
    (problem,) = books.problems()
    assert "UA, month 1" in problem
