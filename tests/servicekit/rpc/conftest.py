"""A server of the tests' own services, for all tests of servicekit.rpc."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servicekit.rpc.desk import Serving, serving_desks
from tests.support.credentials import settings_of


@pytest.fixture
async def serving(platform_files: Path) -> AsyncIterator[Serving]:
    """A server that takes messages of 64 KiB at most, and has time for every call."""
    async with _serving(platform_files, call_timeout_seconds=600.0) as running:
        yield running


@pytest.fixture
async def hurried(platform_files: Path) -> AsyncIterator[Serving]:
    """The same with 0.5 s for calls without a deadline."""
    async with _serving(platform_files, call_timeout_seconds=0.5) as running:
        yield running


def _serving(platform_files: Path, **limits: float) -> contextlib.AbstractAsyncContextManager[Serving]:
    settings = settings_of(platform_files, "data", max_message_bytes=1 << 16, drain_seconds=2.0, **limits)
    return serving_desks(settings, platform_files)
