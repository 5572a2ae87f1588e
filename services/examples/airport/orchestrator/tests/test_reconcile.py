"""The independent computation: figures worked out by hand, and what it does with disagreements."""

from __future__ import annotations

from pathlib import Path

import pytest

from airport.data import days, flight_rows
from airport.reconcile import Difference, Owed, differences, expected

TARIFF = Path(__file__).parents[2] / "tariff.toml"


def test_first_flight_of_the_year_costs_what_the_tariff_says():
    # UA 1545 in N14228: 149 seats, two turbofans, 11 minutes late. Landing is 12,500 + 149 * 145 +
    # 4,200; 149 * 0.823 is 122.6, so 123 passengers of 450.
    assert expected(TARIFF, 1) == {("UA", 1): Owed(charged_minor=38_305 + 55_350, flights=1)}


def test_cancelled_flights_cost_the_slot_and_unknown_arrivals_nothing():
    rows = [row.split(",") for row in flight_rows()[:842]]
    cancelled = [row for row in rows if row[3] == "NA"]
    unknown = [row for row in rows if row[3] != "NA" and row[8] == "NA"]
    assert cancelled
    assert unknown
    owed = expected(TARIFF, 842)
    assert sum(one.flights for one in owed.values()) == 842 - len(unknown)
    # An airline whose only flights so far were cancelled would owe slot fees alone.
    first = next(number for number, row in enumerate(rows) if row[3] == "NA")
    before, after = expected(TARIFF, first), expected(TARIFF, first + 1)
    key = (rows[first][9], 1)
    assert after[key].charged_minor - before[key].charged_minor == 7_500


def test_the_year_has_every_day_and_every_row_once():
    year = days(0)
    assert len({day.date for day in year}) == len(year) == 365
    assert [day.first_row for day in year[1:]] == [
        day.first_row + day.row_count for day in year[:-1]
    ]
    assert sum(day.row_count for day in year) == len(flight_rows()) == 336_776


@pytest.mark.parametrize("limit", [1, 842, 843])
def test_limit_cuts_the_last_day(limit: int):
    assert sum(day.row_count for day in days(limit)) == limit


def test_differences_name_both_sides_and_what_is_missing():
    ours = {("UA", 1): Owed(100, 2), ("DL", 2): Owed(5, 1)}
    theirs = {("UA", 1): Owed(101, 2), ("AA", 3): Owed(7, 1)}
    assert differences(ours, theirs) == [
        Difference("AA", 3, None, Owed(7, 1)),
        Difference("DL", 2, Owed(5, 1), None),
        Difference("UA", 1, Owed(100, 2), Owed(101, 2)),
    ]
    assert differences(ours, dict(ours)) == []
