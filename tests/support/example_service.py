"""Fixtures for tests of the kit: the example service's database, and settings of a process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from servicekit.database import Database, open_database
from servicekit.settings import ProcessSettings, StatefulSettings
from tests.support.nats import NatsServer
from tests.support.s3 import ObjectsEnvironment

MIGRATIONS = "tests.support.example.migrations"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The example service's database, migrated and empty; SQLite, then Postgres."""
    async with open_database(database_url, MIGRATIONS) as opened:
        yield opened


@pytest.fixture
async def sqlite_database(sqlite_url: str) -> AsyncIterator[Database]:
    """The example service's database on SQLite alone, for tests that have nothing to do with its kind."""
    async with open_database(sqlite_url, MIGRATIONS) as opened:
        yield opened


@pytest.fixture
def stateful_settings(platform_files: Path, objects_environment: ObjectsEnvironment) -> StatefulSettings:
    """Settings with an object store, once of each kind."""
    return make_settings(platform_files, objects_environment)


def nats_settings(credentials: Path, server: NatsServer) -> ProcessSettings:
    """Return the settings of a process that talks to a server."""
    return ProcessSettings(
        tls_ca=credentials / "ca.pem",
        tls_certificate=credentials / "data.pem",
        tls_key=credentials / "data.key",
        token_public_keys=credentials / "token-keys.json",
        nats_url=server.url,
        nats_password_file=credentials / "nats-password",
    )


def make_settings(credentials: Path, objects: ObjectsEnvironment) -> StatefulSettings:
    """Return the settings of a service with an object store."""
    return StatefulSettings.model_validate(
        {
            "tls_ca": credentials / "ca.pem",
            "tls_certificate": credentials / "data.pem",
            "tls_key": credentials / "data.key",
            "token_public_keys": credentials / "token-keys.json",
            "database_url": "sqlite+aiosqlite:///unused.sqlite3",
            "key_encryption_key_file": credentials / "key-encryption.key",
            **objects.as_settings(),
        }
    )
