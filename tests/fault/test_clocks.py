"""Clocks that are stepped, where libfaketime is installed."""

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from tests.fault import clocks, tools
from tests.fault.conftest import clean


@pytest.mark.skipif(not tools.have_clocks(), reason="needs libfaketime")
async def test_a_stepped_clock_ends_nothing_early_and_keeps_nothing_waiting(tmp_path: Path):
    clean(await clocks.campaign(6, tmp_path))


@pytest.mark.skipif(not tools.have_clocks(), reason="needs libfaketime")
async def test_the_wall_clock_is_stepped_and_the_monotonic_one_is_not(tmp_path: Path):
    clock = clocks.WallClock(tmp_path)
    clock.step(-clocks.HOUR_S)
    program = "import json, time; print(json.dumps([time.time(), time.monotonic()]))"
    child = await asyncio.create_subprocess_exec(
        *(*clock.under, sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await child.communicate()
    wall, monotonic = json.loads(said)
    assert wall == pytest.approx(time.time() - clocks.HOUR_S, abs=60)
    assert monotonic == pytest.approx(time.monotonic(), abs=60)
