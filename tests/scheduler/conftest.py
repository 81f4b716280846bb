"""What tests of the scheduler service stand on: a nats-server of their own, owners that list, and a database."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from servicekit.events import connect
from tests.scheduler.neighbours import House, Owners, process_settings, running_owners
from tests.support.nats import NatsServer


@pytest.fixture
async def house(platform_files: Path, own_nats_server: NatsServer, sqlite_url: str) -> AsyncIterator[House]:
    """Everything that a scheduler needs, on SQLite."""
    owners = Owners()
    settings = process_settings(platform_files, own_nats_server, "training")
    async with running_owners(owners, platform_files, own_nats_server), connect(settings, "test") as connection:
        await connection.wait_connected(120)
        yield House(platform_files, own_nats_server, owners, sqlite_url, connection)
