"""What commands print: tables for people, the API's messages as JSON for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))


class Output:
    """Prints in one format: table, json or jsonl."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    @property
    def is_table(self) -> bool:
        """Whether people read it."""
        return self.kind == "table"

    def items(
        self,
        name: str,
        items: Sequence[Message],
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
    ) -> None:
        """A list: as a table, as one JSON object with the field `name`, or an object a line."""
        if self.is_table:
            table(columns, rows)
        elif self.kind == "jsonl":
            for item in items:
                click.echo(line(item))
        else:
            whole = {name: [as_dict(item) for item in items]}
            click.echo(_pretty(whole))

    def item(self, item: Message, text: str) -> None:
        """One message: its text for people, or JSON."""
        if self.is_table:
            click.echo(text)
        else:
            click.echo(line(item) if self.kind == "jsonl" else _pretty(as_dict(item)))

    def data(self, value: dict[str, Any], text: str) -> None:
        """Something that is no message of the API."""
        if self.is_table:
            click.echo(text)
        else:
            click.echo(_compact(value) if self.kind == "jsonl" else _pretty(value))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns under their headings; plain, and as wide as they are, where no terminal reads it."""
    if not sys.stdout.isatty():
        lines = [columns, *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for each in lines:
            cells = (cell.ljust(width) for cell, width in zip(each, widths, strict=True))
            click.echo("  ".join(cells).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*row)
    Console(markup=False, highlight=False).print(made)


def as_dict(message: Message) -> Any:
    """The JSON of a message, as protobuf defines it."""
    return json_format.MessageToDict(message)


def line(message: Message) -> str:
    """A message as one line of JSON."""
    return _compact(as_dict(message))


def age(time: Timestamp) -> str:
    """How long ago, such as "3m12s"; "" for no time."""
    if not time.seconds and not time.nanos:
        return ""
    return span((datetime.now(UTC) - time.ToDatetime(UTC)).total_seconds())


def time_left(time: Timestamp) -> str:
    """How long it is until then; "" for no time."""
    if not time.seconds and not time.nanos:
        return ""
    return span(max(0.0, (time.ToDatetime(UTC) - datetime.now(UTC)).total_seconds()))


def span(seconds: float) -> str:
    """A time for people: "350ms", "3.2s", "3m12s", "2h5m", "3d4h"."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    for unit, name, part, part_name in _UNITS:
        if round(seconds) >= unit:
            whole, rest = divmod(round(seconds), unit)
            return f"{whole}{name}{rest // part}{part_name}" if rest >= part else f"{whole}{name}"
    return f"{seconds:.3g}s"


def duration(value: Duration) -> str:
    """A duration for people."""
    return span(value.seconds + value.nanos / 1e9)


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
