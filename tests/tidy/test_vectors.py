"""The shared vectors are what their reference computes, and what the contract says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("reference", "vectors"),
    [
        ("ref.py", "resilience.json"),
        ("ref_calls.py", "calls.json"),
        ("ref_ejection.py", "ejection.json"),
    ],
)
def test_the_vectors_agree_with_their_reference(root: Path, reference: str, vectors: str):
    result = subprocess.run(
        [sys.executable, reference, "check", vectors],
        cwd=root / "interop/vectors",
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert ", 0 differences" in result.stdout


def test_the_reasons_of_the_vectors_are_those_of_the_contract(root: Path):
    """The gRPC code of a reason stands in the contract's comment, and nowhere else as data."""
    text = (root / "proto/plait/v1/errors.proto").read_text()
    said = re.findall(
        r"// ([A-Z_]+)( with RetryInfo)?: .*\n(?: *//.*\n)* *ERROR_REASON_(\w+) = (\d+);", text
    )
    vectors = json.loads((root / "interop/vectors/error_codes.json").read_text())
    assert vectors["reasons"] == [
        {"reason": reason, "number": int(number), "code": code, "retry_info": bool(retry_info)}
        for code, retry_info, reason, number in said
    ]
    numbers = re.findall(r"ERROR_REASON_\w+ = (\d+);", text)
    assert len(numbers) == len(said) + 1, "a reason has no code in its comment"


@pytest.mark.parametrize(
    ("cases", "vectors"), [("call_cases", "calls.json"), ("ejection_cases", "ejection.json")]
)
def test_the_cases_are_the_file(root: Path, cases: str, vectors: str):
    """They are written by hand and by nobody else."""
    code = f"import json, {cases}; print(json.dumps({cases}.cases()))"
    printed = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root / "interop/vectors",
        check=True,
        capture_output=True,
        text=True,
    )
    written = json.loads((root / "interop/vectors" / vectors).read_text())
    assert json.loads(printed.stdout) == written["vectors"]
