"""What a campaign reports: one JSON file a campaign, in one shape for all of them.

`violations` counts, `found` shows the first of them, `figures` are what was measured. A file is
replaced by the next run of the same campaign.
"""

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SHOWN = 20
"""Violations that are kept in words."""


def folder() -> Path:
    """Where results are kept: PLAIT_FAULT_RESULTS, else build/fault."""
    return Path(os.environ.get("PLAIT_FAULT_RESULTS", ROOT / "build/fault"))


@dataclass
class Outcome:
    """What was tried, how often, and what did not hold."""

    campaign: str
    """Its name, which is its file's."""
    invariants: list[str]
    """Of the project's list, such as "I1"."""
    unit: str
    """What `tried` counts: "kill -9"."""
    tried: int = 0
    violations: int = 0
    found: list[str] = field(default_factory=list)
    notes: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    commit: str = field(default_factory=lambda: commit())
    """What was checked out when it began."""
    _begun: float = field(default_factory=time.monotonic, repr=False)

    def violated(self, what: str) -> None:
        """Counts a violation."""
        self.violations += 1
        if len(self.found) < SHOWN:
            self.found.append(what)

    def check(self, holds: bool, what: str) -> None:
        """Counts a violation unless it holds."""
        if not holds:
            self.violated(what)

    def ended(self) -> "Outcome":
        """Takes the time."""
        self.seconds = round(time.monotonic() - self._begun, 1)
        return self

    def write(self) -> Path:
        """Writes the file and answers where it is."""
        said = {
            "campaign": self.campaign,
            "invariants": self.invariants,
            "tried": self.tried,
            "violations": self.violations,
            "unit": self.unit,
            "seconds": self.seconds,
            "date": datetime.now(UTC).date().isoformat(),
            "commit": self.commit,
            "notes": self.notes,
            "found": self.found,
            "figures": self.figures,
        }
        path = folder() / f"{self.campaign}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(said, indent=2) + "\n")
        return path


def commit() -> str:
    """The commit that is checked out, short; "" outside a repository."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return said.stdout.strip()
