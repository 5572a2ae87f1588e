"""Full and failing disks, where the machine can make them."""

from pathlib import Path

import pytest

from tests.fault import disks, tools
from tests.fault.conftest import clean


@pytest.mark.skipif(not tools.have_disks(), reason="needs root and loop devices")
async def test_a_full_disk_stops_the_broker_and_loses_nothing(tmp_path: Path):
    clean(await disks.full(1, tmp_path))


@pytest.mark.skipif(not tools.have_failing_calls(), reason="needs libfiu")
async def test_a_failed_sync_stops_the_broker_and_loses_nothing(tmp_path: Path):
    clean(await disks.sync(3, tmp_path))


def test_an_absent_tool_is_named():
    with pytest.raises(tools.MissingToolError, match="libfiu"):
        tools.require(False, "this needs libfiu")
