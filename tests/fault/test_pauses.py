"""Processes that stand still, and completions that come too late."""

from pathlib import Path

from tests.fault import pauses
from tests.fault.conftest import clean


async def test_who_stands_still_loses_his_leases_and_nothing_else(tmp_path: Path):
    clean(await pauses.freeze(5, tmp_path))


async def test_completions_under_old_tokens_are_refused(tmp_path: Path):
    outcome = await pauses.late(2 * pauses.BATCH, tmp_path)
    clean(outcome)
    assert outcome.tried == 2 * pauses.BATCH
