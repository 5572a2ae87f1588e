"""What is left to look at: a chart as PNG, a report as HTML, the closing tables of the terminal."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import matplotlib as mpl
from rich.table import Table

from airport.demo.progress import STAGES

mpl.use("Agg")

from matplotlib import pyplot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from airport.demo.books import Books
    from airport.demo.progress import Progress

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #1c2733; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid #dde3ea; }
th:first-child, td:first-child { text-align: left; }
.good { color: #18794e; } .bad { color: #b42318; } img { max-width: 100%; }
"""


def money(minor: int) -> str:
    """Cents as dollars: "1,234.56"."""
    sign = "-" if minor < 0 else ""
    whole, cents = divmod(abs(minor), 100)
    return f"{sign}{whole:,}.{cents:02}"


def trial_balance(books: Books) -> Table:
    """The balance sheet, airlines folded into one line."""
    table = Table(title="Trial balance (USD)", title_justify="left", pad_edge=False)
    table.add_column("account")
    for column in ("debit", "credit", "balance"):
        table.add_column(column, justify="right")
    for name, debit, credit in _folded_accounts(books):
        table.add_row(name, money(debit), money(credit), money(debit - credit))
    table.add_section()
    debit, credit = books.debit_minor(), books.credit_minor()
    table.add_row("total", money(debit), money(credit), money(debit - credit))
    return table


def counts(books: Books) -> Table:
    """What was asked for and what it took."""
    table = Table(title="Counts", title_justify="left", pad_edge=False)
    table.add_column("what")
    table.add_column("how many", justify="right")
    for name, value in _counts(books):
        table.add_row(name, value)
    return table


def reconciliation(books: Books) -> str:
    """One line for a terminal."""
    cells = len(books.balance.airline_months)
    if books.differences:
        differ = len(books.differences)
        return f"[bold red]Reconciliation: {differ} of {cells} airline-months differ[/]"
    return (
        f"[bold green]Reconciliation: all {cells} airline-months equal the SQL over the files, "
        f"to the cent: {money(books.expected_minor)} USD[/]"
    )


def chart(progress: Progress, path: Path) -> None:
    """Tasks done over time, with what was killed when."""
    figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
    times = [time for time, _ in progress.samples]
    for queue, name in STAGES.items():
        done = [sample[queue] for _, sample in progress.samples]
        whole = max(done, default=0) or 1
        axes.plot(times, [100 * value / whole for value in done], label=f"{name}: {whole:,} tasks")
    for index, (time, event) in enumerate(progress.events):
        axes.axvline(time, color="#b42318", linewidth=1, linestyle=":")
        axes.annotate(
            event,
            (time, 98 - 5 * (index % 4)),
            xytext=(-4, 0),
            textcoords="offset points",
            horizontalalignment="right",
            verticalalignment="top",
            color="#b42318",
            fontsize=8,
            backgroundcolor="#ffffffcc",
        )
    axes.set(xlabel="seconds", ylabel="share of its tasks done, %", ylim=(0, 102), xlim=(0, None))
    axes.set_title("A year of flights, settled while its processes were killed", loc="left")
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=len(STAGES), frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def page(books: Books, progress: Progress, chart_name: str, path: Path) -> None:
    """The report as one HTML file beside the chart."""
    problems = books.problems()
    verdict = (
        "<p class=bad><b>The books are wrong.</b></p>" + _list(problems)
        if problems
        else "<p class=good><b>The books are exact:</b> debits equal credits, all rows counted, "
        "and every airline's month equals the independent computation to the cent.</p>"
    )
    totals = books.year.totals
    airlines = [
        (one.airline, f"{one.flights:,}", money(one.charged_minor)) for one in books.year.airlines
    ]
    months = [
        (str(one.month), f"{one.flights:,}", money(one.charged_minor)) for one in books.year.months
    ]
    reasons = [(name, f"{n:,}") for name, n in sorted(totals.quarantined_by_reason.items())]
    accounts = [
        (name, money(debit), money(credit), money(debit - credit))
        for name, debit, credit in _folded_accounts(books)
    ]
    parts = [
        f"<h1>Settlement of {totals.rows:,} flights</h1>",
        verdict,
        f"<img src='{html.escape(chart_name)}' alt='Tasks done over time'>",
        "<h2>What happened on the way</h2>",
        _list([f"{time:.1f} s: {event}" for time, event in progress.events]),
        _section("Counts", ("what", "how many"), _counts(books)),
        _section("Trial balance (USD)", ("account", "debit", "credit", "balance"), accounts),
        _section("Airlines", ("airline", "flights", "charged, USD"), airlines),
        _section("Months", ("month", "flights", "charged, USD"), months),
        _section("Quarantine", ("reason", "rows"), reasons),
    ]
    body = "\n".join(parts)
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Settlement</title>"
        f"<style>{STYLE}</style><body>{body}</body></html>\n",
        encoding="utf-8",
    )


def _folded_accounts(books: Books) -> list[tuple[str, int, int]]:
    folded: dict[str, tuple[int, int]] = {}
    airlines = 0
    for account in books.balance.accounts:
        kind, _, rest = account.account.partition(":")
        airlines += kind == "receivable"
        name = "receivable" if kind == "receivable" else f"{kind}: {rest}"
        debit, credit = folded.get(name, (0, 0))
        folded[name] = (debit + account.debit_minor, credit + account.credit_minor)
    return [
        (f"receivable: {airlines} airlines" if name == "receivable" else name, *sums)
        for name, sums in sorted(folded.items())
    ]


def _counts(books: Books) -> list[tuple[str, str]]:
    counted, balance, totals = books.counts, books.balance, books.year.totals
    figures = {
        "tasks submitted": counted.submitted,
        "attempts started": counted.attempts,
        "attempts retried": counted.retried,
        "tasks lost": counted.lost,
        "flights read": totals.rows,
        "flights posted": totals.posted,
        "rows in quarantine (cancelled ones booked and reversed)": totals.quarantined,
        "flights posted twice": books.posted_twice(),
        "journal entries": balance.entries,
        "postings": balance.postings,
        "postings asked for again, and not posted again": balance.repeated,
        "late attempts fenced off by the ledger": balance.fenced,
    }
    return [(name, f"{value:,}") for name, value in figures.items()]


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"


def _section(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<h2>{html.escape(title)}</h2><table><tr>{heads}</tr>{lines}</table>"
