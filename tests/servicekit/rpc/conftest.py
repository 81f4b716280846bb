"""A server of the tests' own services, for all tests of servicekit.rpc."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servicekit.rpc.desk import Serving, serving_desks
from tests.support.credentials import settings_of


@pytest.fixture
async def serving(platform_files: Path) -> AsyncIterator[Serving]:
    """A server with short limits: 64 KiB a message, 0.5 s for calls without a deadline, 2 s to drain."""
    settings = settings_of(
        platform_files, "data", max_message_bytes=1 << 16, call_timeout_seconds=0.5, drain_seconds=2.0
    )
    async with serving_desks(settings, platform_files) as running:
        yield running
