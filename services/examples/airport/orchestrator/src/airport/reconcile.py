"""The independent check: what the ledger says must equal what plain SQL says, to the cent.

Shares no code with the ledger, the intake or the enrichment; only the tariff and the CSV files.
"""

from __future__ import annotations

import csv
import io
import sqlite3
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from airport.data import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Key = tuple[str, int]
"""Airline and month."""


@dataclass(frozen=True)
class Owed:
    """What one airline owes for one month."""

    charged_minor: int
    flights: int


@dataclass(frozen=True)
class Difference:
    """Where the two disagree; None where one of them has nothing."""

    airline: str
    month: int
    ledger: Owed | None
    expected: Owed | None


def expected(tariff: Path, flights_max: int) -> dict[Key, Owed]:
    """What SQL over the files says. `flights_max` 0 means the whole year."""
    database = sqlite3.connect(":memory:")
    try:
        for name in ("flights", "planes", "weather"):
            _load(database, name)
        _load_tariff(database, tariff)
        query = (resources.files("airport") / "reconcile.sql").read_text(encoding="utf-8")
        rows = database.execute(query, {"flights_max": flights_max or 2**31})
        return {(airline, month): Owed(charged, count) for airline, month, charged, count in rows}
    finally:
        database.close()


def differences(ledger: Mapping[Key, Owed], expectation: Mapping[Key, Owed]) -> list[Difference]:
    """Every airline and month on which the two disagree. Empty: they agree to the cent."""
    return [
        Difference(*key, ledger=ledger.get(key), expected=expectation.get(key))
        for key in sorted(ledger.keys() | expectation.keys())
        if ledger.get(key) != expectation.get(key)
    ]


def _load(database: sqlite3.Connection, name: str) -> None:
    reader = csv.reader(io.StringIO(read_text(f"{name}.csv")))
    columns = next(reader)
    names = ", ".join(f'"{column}" TEXT' for column in columns)
    database.execute(f"CREATE TABLE {name} (line INTEGER PRIMARY KEY, {names})")
    marks = ", ".join("?" * (len(columns) + 1))
    rows = ([line, *row] for line, row in enumerate(reader, start=1))
    database.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)


def _load_tariff(database: sqlite3.Connection, path: Path) -> None:
    """One row, one column a figure: their names are unique over the tables of the file."""
    sections = tomllib.loads(path.read_text(encoding="utf-8"))
    figures = {name: value for section in sections.values() for name, value in section.items()}
    columns = ", ".join(f'"{name}" INTEGER' for name in figures)
    database.execute(f"CREATE TABLE tariff ({columns})")
    marks = ", ".join("?" * len(figures))
    database.execute(f"INSERT INTO tariff VALUES ({marks})", list(figures.values()))
