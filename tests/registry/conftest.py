"""A registry of each test's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.registry.house import Client, House, make_settings, running_registry
from tests.support.credentials import MakeToken
from tests.support.s3 import ObjectsEnvironment


@pytest.fixture
async def house(
    platform_files: Path, sqlite_url: str, local_objects: ObjectsEnvironment, make_token: MakeToken
) -> AsyncIterator[House]:
    """A registry over TLS, on SQLite and a folder."""
    settings = make_settings(platform_files, sqlite_url, local_objects.objects_url, max_artifact_bytes=4 << 20)
    async with running_registry(settings, platform_files, make_token) as running:
        yield running


@pytest.fixture
async def postgres_house(
    platform_files: Path, postgres_url: str, s3_objects: ObjectsEnvironment, make_token: MakeToken
) -> AsyncIterator[House]:
    """A registry over TLS, on Postgres and S3."""
    objects = s3_objects.as_settings()
    settings = make_settings(platform_files, postgres_url, objects.pop("objects_url"), **objects)
    async with running_registry(settings, platform_files, make_token) as running:
        yield running


@pytest.fixture
async def either_house(
    platform_files: Path, database_url: str, local_objects: ObjectsEnvironment, make_token: MakeToken
) -> AsyncIterator[House]:
    """A registry over TLS, on SQLite, then on Postgres."""
    settings = make_settings(platform_files, database_url, local_objects.objects_url)
    async with running_registry(settings, platform_files, make_token) as running:
        yield running


@pytest.fixture
async def developer(house: House) -> Client:
    """Somebody who registers and promotes."""
    return await house.user()


@pytest.fixture
async def worker(house: House) -> Client:
    """A training worker."""
    return await house.worker()
