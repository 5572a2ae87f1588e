"""Reports of contract tests: for people, as data, as JUnit's XML."""

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final
from xml.etree import ElementTree

from plait._boundary.check import Failure, Report

_SAME_MAX: Final = 3
# What XML 1.0 cannot hold, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def summary(reports: Sequence[Report], command: str) -> str:
    """A line for each method and worker, then the failures. command: runs the test; what repeats
    one failure is put behind it."""
    rows = [("METHOD", "WORKER", "CASES", "ANSWERED", "FAILED", "NOT COVERED")]
    for report in reports:
        rows += [
            (
                report.method,
                tally.worker.label,
                str(len(report.cases)),
                str(tally.answered),
                str(tally.failed),
                str(tally.uncovered),
            )
            for tally in report.tallies
        ] or [(report.method, "(none)", str(len(report.cases)), "0", "0", "0")]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for report in reports:
        lines += [f"{report.method}: {note}" for note in report.notes]
        lines += _failures(report, command)
    return "\n".join(lines)


def _failures(report: Report, command: str) -> list[str]:
    """Each in full; but a worker that answers no more is the same news each time."""
    lines: list[str] = []
    counts: Counter[tuple[str, ...]] = Counter()
    for failure in report.failures:
        if failure.kind == "NOT_COVERED":
            counts[failure.workers] += 1
            if counts[failure.workers] > _SAME_MAX:
                continue
        lines += ["", *failure_lines(report, failure, command)]
    for workers, count in counts.items():
        if count > _SAME_MAX:
            lines += ["", f"NOT_COVERED by {', '.join(workers)}: {count - _SAME_MAX} more cases"]
    return lines


def failure_lines(report: Report, failure: Failure, command: str = "") -> list[str]:
    """One failure in full, with the command that repeats it."""
    who = f" by {', '.join(failure.workers)}" if failure.workers else ""
    lines = [f"{failure.kind}{who}: {failure.case}"]
    lines += [f"  {line}" for line in failure.text.splitlines()]
    if command and failure.case != report.method:
        case = shlex.quote(failure.case)
        lines.append(f"  {command} --method {report.method} --case {case}")
    return lines


def as_data(report: Report) -> dict[str, Any]:
    """A report as JSON has it."""
    return {
        "method": report.method,
        "cases": len(report.cases),
        "tasks": report.submitted,
        "workers": [
            {
                "name": tally.worker.label,
                "worker": tally.worker.id,
                "sdk": tally.worker.sdk,
                "answered": tally.answered,
                "failed": tally.failed,
                "notCovered": tally.uncovered,
            }
            for tally in report.tallies
        ],
        "failures": [
            {
                "case": failure.case,
                "kind": failure.kind,
                "workers": list(failure.workers),
                "text": failure.text,
            }
            for failure in report.failures
        ],
        "notes": report.notes,
    }


def junit(reports: Sequence[Report]) -> bytes:
    """JUnit's XML: a suite for each method, a test for each case; an overrun is a test of its
    own."""
    root = ElementTree.Element("testsuites", name="plait contract test")
    for report in reports:
        names = [case.name for case in report.cases]
        names += [each.case for each in report.failures if each.case not in names]
        failures: dict[str, list[Failure]] = {}
        for failure in report.failures:
            failures.setdefault(failure.case, []).append(failure)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=report.method,
            tests=str(len(names)),
            failures=str(len(failures)),
        )
        for name in names:
            case = ElementTree.SubElement(suite, "testcase", name=_clean(name))
            case.set("classname", report.method)
            for failure in failures.get(name, ())[:1]:
                texts = ["\n".join(failure_lines(report, each)) for each in failures[name]]
                said = ElementTree.SubElement(case, "failure", type=failure.kind)
                said.set("message", _clean(failure_lines(report, failure)[0]))
                said.text = _clean("\n".join(texts))
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
