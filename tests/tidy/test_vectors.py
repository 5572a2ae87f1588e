"""The shared vectors are what their reference computes."""

import subprocess
import sys
from pathlib import Path


def test_the_resilience_vectors_agree_with_the_reference(root: Path):
    result = subprocess.run(
        [sys.executable, "ref.py", "check", "resilience.json"],
        cwd=root / "interop/vectors",
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    assert ", 0 differences" in result.stdout
