"""How a campaign runs as a program: it writes its result, prints it, and fails on a violation."""

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Any

from tests.fault.outcome import Outcome
from tests.support import processes

READY_S = 300.0
"""A campaign may run with a low priority, beside a build that takes every core."""


def run(campaign: Coroutine[Any, Any, Outcome]) -> None:
    """Runs a campaign to its end. Exits with 1 when an invariant did not hold."""
    processes.READY_S = READY_S
    outcome = asyncio.run(campaign)
    path = outcome.write()
    said = json.dumps(json.loads(path.read_text()))
    sys.stdout.write(f"{said}\n")
    sys.exit(1 if outcome.violations else 0)
