"""Training services of each test's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.credentials import MakeToken
from tests.support.nats import NatsServer
from tests.training.house import House, running_house


@pytest.fixture
async def house(
    platform_files: Path, tmp_path: Path, own_nats_server: NatsServer, make_token: MakeToken
) -> AsyncIterator[House]:
    """Data, registry and training, with the dataset line@1: y = 2 x + 1."""
    async with running_house(platform_files, tmp_path, own_nats_server, make_token) as running:
        yield running


@pytest.fixture
async def busy_house(house: House) -> House:
    """The same with a scheduler: jobs go to workers, whose leases outlast the pauses of a busy machine."""
    await house.start_scheduler()
    return house


@pytest.fixture
async def lapsing_house(house: House) -> House:
    """The same with leases short enough to wait for their end."""
    await house.start_scheduler(lease_seconds=4.0)
    return house
