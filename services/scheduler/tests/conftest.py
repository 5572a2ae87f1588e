"""A fake broker and a scheduler that observes it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from services.scheduler.tests.fake_broker import FakeBroker
from services.scheduler.tests.running import RunningScheduler

from plait_scheduler.logs import configure_logs


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
