"""A fake broker and a scheduler that observes it."""

import asyncio
import os
from collections.abc import AsyncIterator

import hypothesis
import pytest

from plait_scheduler.logs import configure_logs
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler

# The same examples in every run, on a machine however busy. HYPOTHESIS_PROFILE=search looks for
# new ones.
_PATIENT = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("same", _PATIENT, derandomize=True, database=None)
hypothesis.settings.register_profile("search", _PATIENT, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture(autouse=True)
def _logs() -> None:
    configure_logs("json", "debug")


@pytest.fixture
async def broker() -> AsyncIterator[FakeBroker]:
    async with FakeBroker() as broker:
        yield broker


@pytest.fixture
async def scheduler(broker: FakeBroker) -> AsyncIterator[RunningScheduler]:
    async with RunningScheduler(broker.address) as scheduler, asyncio.timeout(20):
        await scheduler.ready
        yield scheduler
