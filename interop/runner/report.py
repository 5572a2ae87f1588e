"""What came of a run: a matrix on the terminal, and in interop/RESULTS.md."""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "interop/RESULTS.md"
KNOWN = ROOT / "interop/known.yaml"
HOMES = {
    **{language: ROOT / f"sdk/{language}" for language in ("python", "go", "rust", "typescript")},
    "sidecar": ROOT / "services/sidecar",
}
"""Where the FEATURES.md of each is."""


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
    """Failures that are expected, and why; `case` is a pattern. They are run all the same, and told
    when all of them pass."""

    case: str
    why: str
    client: str = "*"
    worker: str = "*"

    def covers(self, result: Result) -> bool:
        """Whether it is this one's."""
        pairs = ((self.client, result.client), (self.worker, result.worker))
        named = fnmatch.fnmatch(result.case, self.case)
        return named and all(mine in ("*", its) for mine, its in pairs)


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


def version_matrix(verdict: Verdict) -> str:
    """Old and new builds, a row for each client of a version and a column for each worker."""
    here = [result for result in verdict.results if result.case.startswith("versions/")]
    workers = _in_order(result.worker for result in here)
    lines = [
        "| client \\ worker | " + " | ".join(workers) + " |",
        "|---|" + "---|" * len(workers),
    ]
    for client in _in_order(result.client for result in here):
        for version in ("old", "new"):
            mine = [
                result
                for result in here
                if result.client == client and result.case.startswith(f"versions/{version}")
            ]
            cells = [_versions(version, [r for r in mine if r.worker == it]) for it in workers]
            lines.append(f"| {client}, {version} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _versions(client: str, results: Sequence[Result]) -> str:
    """What the workers of both versions do for a client of one, if all is as it should be."""
    failed = [result.case.partition("/")[2] for result in results if result.failure is not None]
    if failed:
        return "**" + ", ".join(failed) + "**"
    return "by old and new" if client == "old" else "by new, waits for it"


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
        "broker and scheduler. A cell is cases passed of cases run. `reference` is a client and a",
        "worker that are no SDK (`interop/reference`), `sidecar` a worker before a plain server.",
        "",
        matrix(verdict),
        "",
        f"{len(cases)} cases: "
        + ", ".join(
            f"{suite} {sum(case.startswith(suite + '/') for case in cases)}" for suite in suites
        )
        + ".",
        "",
        "## Old and new builds",
        "",
        "Each client and each worker, built with a contract and with a later version of it, which",
        "has a field more. What a client of a version submits is done by the worker of either, or",
        "waits until a worker comes that knows all that was said.",
        "",
        version_matrix(verdict),
        "",
        "## Expected failures",
        "",
    ]
    lines += [
        f"- `{case}`, {', '.join(pairs)}: {why}" for case, pairs, why in _together(verdict.expected)
    ] or ["None."]
    return "\n".join(lines) + "\n"


def _together(failed: Sequence[Result]) -> list[tuple[str, list[str], str]]:
    """Cases that fail, with the pairs with which they do, and the first one's words."""
    return [
        (
            case,
            [f"{each.client} to {each.worker}" for each in failed if each.case == case],
            next(str(each.failure) for each in failed if each.case == case),
        )
        for case in _in_order(result.case for result in failed)
    ]


def features(verdict: Verdict, language: str) -> str:
    """FEATURES.md of an SDK: the cases that pass with every peer, by suite."""
    lines = [
        "# Features",
        "",
        "Written by `make interop`: of the conformance cases of each suite, those that pass with",
        "every peer. What fails, and why: [the results](../../interop/RESULTS.md).",
        "",
        "| suite | as client | as worker |",
        "|---|---|---|",
    ]
    for suite in _in_order(result.case.partition("/")[0] for result in verdict.results):
        here = [each for each in verdict.results if each.case.startswith(f"{suite}/")]
        client = _share([each for each in here if each.client == language])
        worker = _share([each for each in here if each.worker == language])
        lines.append(f"| {suite} | {client} | {worker} |")
    return "\n".join(lines) + "\n"


def _share(results: Sequence[Result]) -> str:
    cases = _in_order(result.case for result in results)
    failed = {result.case for result in results if result.failure is not None}
    return f"{len(cases) - len(failed)} of {len(cases)}" if cases else "-"


def write(verdict: Verdict) -> None:
    """Writes interop/RESULTS.md and each FEATURES.md."""
    RESULTS.write_text(page(verdict))
    for language, home in HOMES.items():
        (home / "FEATURES.md").write_text(features(verdict, language))
