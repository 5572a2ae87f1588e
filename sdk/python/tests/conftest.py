"""Brokers to run the tests against."""

from collections.abc import AsyncIterator

import pytest
from sdk.python.tests.pocket_broker import PocketBroker

import plait


@pytest.fixture
async def pocket() -> AsyncIterator[PocketBroker]:
    """A broker in memory that a test can have misbehave."""
    broker = PocketBroker()  # type: ignore[abstract]  # the rest of the API is not needed
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def client(pocket: PocketBroker) -> AsyncIterator[plait.Client]:
    """A client of it."""
    async with plait.connect(pocket.address) as opened:
        yield opened
