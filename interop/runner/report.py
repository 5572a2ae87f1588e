"""What came of a run: a matrix on the terminal, and in interop/RESULTS.md."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

RESULTS = Path(__file__).parents[1] / "RESULTS.md"
KNOWN = Path(__file__).parents[1] / "known.yaml"


@dataclass(frozen=True, slots=True)
class Result:
    """One case with one pair."""

    client: str
    worker: str
    case: str
    failure: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Known:
    """A failure that is expected, and why. It is run all the same, and told when it passes."""

    case: str
    why: str
    client: str = "*"
    worker: str = "*"

    def covers(self, result: Result) -> bool:
        """Whether it is this one's."""
        pairs = ((self.client, result.client), (self.worker, result.worker))
        return self.case == result.case and all(mine in ("*", its) for mine, its in pairs)


def load_known(path: Path = KNOWN) -> list[Known]:
    """The expected failures. Raises TypeError when one has no reason."""
    return [Known(**entry) for entry in yaml.safe_load(path.read_text()) or []]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A run, judged."""

    results: Sequence[Result]
    unexpected: Sequence[Result]
    expected: Sequence[Result]
    passed_all_the_same: Sequence[Known]

    @property
    def ok(self) -> bool:
        """Whether nothing is unexpected, neither a failure nor a success."""
        return not self.unexpected and not self.passed_all_the_same


def judge(results: Sequence[Result], known: Sequence[Known]) -> Verdict:
    """Compares a run with what is expected of it."""
    failed = [result for result in results if result.failure is not None]
    expected = [result for result in failed if any(each.covers(result) for each in known)]
    unexpected = [result for result in failed if result not in expected]
    tried = [each for each in known if any(each.covers(result) for result in results)]
    passed = [each for each in tried if not any(each.covers(result) for result in failed)]
    return Verdict(results, unexpected, expected, passed)


def matrix(verdict: Verdict) -> str:
    """Cases passed of cases run, a row for each client and a column for each worker."""
    workers = _in_order(result.worker for result in verdict.results)
    clients = _in_order(result.client for result in verdict.results)
    lines = [
        "| client \\ worker | " + " | ".join(workers) + " |",
        "|---|" + "---|" * len(workers),
    ]
    for client in clients:
        cells = [_cell(verdict, client, worker) for worker in workers]
        lines.append(f"| {client} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(verdict: Verdict, client: str, worker: str) -> str:
    here = [r for r in verdict.results if (r.client, r.worker) == (client, worker)]
    passed = sum(result.failure is None for result in here)
    return f"{passed}/{len(here)}" if here else "-"


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def page(verdict: Verdict) -> str:
    """interop/RESULTS.md."""
    suites = _in_order(result.case.partition("/")[0] for result in verdict.results)
    cases = _in_order(result.case for result in verdict.results)
    lines = [
        "# Conformance",
        "",
        "Written by `make interop`: every SDK as client against every SDK as worker, on a real",
        "broker and scheduler. A cell is cases passed of cases run.",
        "",
        matrix(verdict),
        "",
        f"{len(cases)} cases: "
        + ", ".join(
            f"{suite} {sum(case.startswith(suite + '/') for case in cases)}" for suite in suites
        )
        + ".",
        "",
        "## Expected failures",
        "",
    ]
    lines += [
        f"- `{result.case}`, {result.client} to {result.worker}: {result.failure}"
        for result in verdict.expected
    ] or ["None."]
    return "\n".join(lines) + "\n"
