"""What tests of the inference service stand on."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.inference.house import House
from tests.support.credentials import MakeToken
from tests.support.nats import NatsServer


@pytest.fixture
async def registry_house(
    platform_files: Path, tmp_path: Path, own_nats_server: NatsServer, make_token: MakeToken
) -> AsyncIterator[House]:
    """A registry alone."""
    async with contextlib.AsyncExitStack() as stack:
        house = House(platform_files, tmp_path, own_nats_server, make_token, stack)
        await house.start_registry()
        yield house


@pytest.fixture
async def registered(registry_house: House) -> House:
    """A registry and a deployments service, and nobody who places."""
    await registry_house.start_deployments()
    return registry_house


@pytest.fixture
async def house(registered: House) -> House:
    """A whole house, without workers."""
    await registered.start_scheduler()
    return registered


@pytest.fixture
async def lapsing_house(registered: House) -> House:
    """The same with leases short enough to wait for their end."""
    await registered.start_scheduler(lease_seconds=5.0)
    return registered
