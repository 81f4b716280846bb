"""One SQLAlchemy database a service: SQLite (WAL) embedded, Postgres in the stack, the same code on both.

Migrations run at start under a lock. Every write is one transaction; what it publishes goes with it, see the outbox.
"""

import asyncio
import contextlib
import fcntl
import importlib.resources
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, String, Table, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from servicekit.errors import Aborted, FailedPrecondition, LeptonError, ResourceExhausted, Unavailable

# Any number that all of Lepton's services share and nobody else uses: the advisory lock of migrations.
_MIGRATION_LOCK = 0x1E9704
_BUSY_MILLISECONDS = 10_000

# 64 bits on Postgres; on SQLite only INTEGER makes a row id.
BigNumber = BigInteger().with_variant(Integer(), "sqlite")

# What a write transaction hands to repositories.
Transaction = AsyncConnection


def counters_table(metadata: MetaData) -> Table:
    """Add the table of counters to a schema: numbers without gaps, for they roll back with their transaction."""
    return Table("counters", metadata, Column("name", String(255), primary_key=True), Column("value", BigNumber))


class Database:
    """A service's database.

    Args:
        writer: the engine for transactions that write.
        reader: the engine for those that only read.
    """

    def __init__(self, writer: AsyncEngine, reader: AsyncEngine) -> None:
        self._writer = writer
        self._reader = reader
        # SQLite has one writer: queueing here is fair and free, unlike its busy loop.
        self._write_lock = asyncio.Lock() if writer.dialect.name == "sqlite" else contextlib.nullcontext()
        self.published = asyncio.Event()

    @property
    def is_postgres(self) -> bool:
        """Whether this is Postgres."""
        return self._writer.dialect.name == "postgresql"

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Run a block as one write transaction: all of it or nothing.

        Raises:
            ResourceExhausted: the disk is full.
            Aborted: Postgres ended it for another transaction's sake; a retry works.
            Unavailable: the database does not answer, or another process keeps it locked.
        """
        async with self._write_lock:
            try:
                async with self._writer.begin() as connection:
                    yield connection
            except DBAPIError as error:
                raise (_translated(error) or error) from error
        self.published.set()

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Run a block that reads one state of the database, and can write nothing."""
        async with self._reader.begin() as connection:
            yield connection

    async def close(self) -> None:
        """Close every connection."""
        await self._writer.dispose()
        await self._reader.dispose()


@contextlib.asynccontextmanager
async def open_database(url: str, migrations: str) -> AsyncIterator[Database]:
    """Migrate a database to its newest schema and open it.

    Args:
        url: sqlite+aiosqlite:///PATH or postgresql+psycopg://...
        migrations: the package with the schema's versions, such as services.data.migrations.

    Raises:
        FailedPrecondition: the database is newer than this code.
    """
    parsed = make_url(url)
    await asyncio.to_thread(migrate, parsed, migrations)
    database = Database(*_engines(parsed))
    try:
        yield database
    finally:
        await database.close()


def _translated(error: DBAPIError) -> LeptonError | None:
    """Return what a driver's error means to a caller; None where it tells of a fault in our own code."""
    text_of_driver = str(error.orig)
    if "disk is full" in text_of_driver or "No space left" in text_of_driver:
        return ResourceExhausted("the database's disk is full: nothing changed", reason="DISK_FULL")
    if getattr(error.orig, "sqlstate", None) in ("40001", "40P01"):
        return Aborted("another transaction was faster: try again", reason="TRANSACTION_CONFLICT")
    if error.connection_invalidated or isinstance(error, OperationalError):
        return Unavailable("the database does not answer: nothing changed", reason="DATABASE_AWAY")
    return None


async def next_number(transaction: Transaction, counters: Table, name: str) -> int:
    """Return the next value of a counter, from 1; a rollback takes it back."""
    insert = sqlite.insert if transaction.dialect.name == "sqlite" else postgresql.insert
    statement: Any = insert(counters).values(name=name, value=1)
    statement = statement.on_conflict_do_update(index_elements=["name"], set_={"value": counters.c.value + 1})
    return int((await transaction.execute(statement.returning(counters.c.value))).scalar_one())


def migrate(url: URL, migrations: str) -> None:
    """Bring a database to the newest schema; at once where it is there already. Blocks."""
    folder = Path(str(importlib.resources.files(migrations)))
    newest = max(match[1] for path in folder.glob("*.py") if (match := re.match(r"(\d{4})_", path.name)))
    if url.get_backend_name() == "sqlite" and url.database:
        Path(url.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = migration_engine(url)
    try:
        with _migrating(url, engine) as connection:
            present = _revision(connection)
            if present == newest:
                return
            if present is not None and present > newest:
                raise FailedPrecondition(
                    f"the database has schema {present}, newer than this version of Lepton, which knows {newest}: "
                    "start the newer version",
                    reason="SCHEMA_TOO_NEW",
                )
            _upgrade(connection, folder)
    finally:
        engine.dispose()


def migration_engine(url: URL) -> Engine:
    """Return a blocking engine on which a schema change is one transaction."""
    engine = create_engine(url.set(drivername=url.drivername.replace("+aiosqlite", "")))
    if url.get_backend_name() == "sqlite":

        @event.listens_for(engine, "connect")
        def connect(connection: Any, _: Any) -> None:
            # The driver would leave CREATE TABLE outside of transactions: a kill in between left half a schema.
            connection.isolation_level = None
            connection.execute(f"PRAGMA busy_timeout={_BUSY_MILLISECONDS}")
            # The file keeps the mode. Processes that switch at once do not wait for each other, so only this one does.
            connection.execute("PRAGMA journal_mode=WAL").fetchall()

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    return engine


def _upgrade(connection: Connection, folder: Path) -> None:
    # Alembic costs a quarter of a second to import: only a database that needs it pays.
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(folder), version_locations=[str(folder)])
    environment = EnvironmentContext(
        Config(), script, fn=lambda revision, _: script._upgrade_revs("head", revision), destination_rev="head"
    )
    with environment:
        environment.configure(connection=connection, render_as_batch=True, transactional_ddl=True)
        with environment.begin_transaction():
            environment.run_migrations()
    connection.commit()


def _revision(connection: Connection) -> str | None:
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextlib.contextmanager
def _migrating(url: URL, engine: Engine) -> Iterator[Connection]:
    """Connect as the only process that migrates: by an advisory lock on Postgres, a locked file beside SQLite's."""
    if url.get_backend_name() == "sqlite":
        with open(f"{url.database}.migrating", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with engine.connect() as connection:
                yield connection
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
        connection.commit()
        try:
            yield connection
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})


def _engines(url: URL) -> tuple[AsyncEngine, AsyncEngine]:
    """Return the engine that writes and the one that reads."""
    if url.get_backend_name() != "sqlite":
        writer = create_async_engine(url, pool_pre_ping=True)
        # A snapshot, as on SQLite: a list and what is read next to it belong together.
        return writer, writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    # A writer takes its lock at once: one that reads first and then writes could find its snapshot stale.
    writer = _sqlite_engine(url, begin="BEGIN IMMEDIATE", pool_size=1, query_only="OFF")
    return writer, _sqlite_engine(url, begin="BEGIN", pool_size=4, query_only="ON")


def _sqlite_engine(url: URL, *, begin: str, pool_size: int, query_only: str) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=pool_size, max_overflow=0)
    pragmas = (
        f"busy_timeout={_BUSY_MILLISECONDS}",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"query_only={query_only}",
    )

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        # Transactions begin where we say, not where the driver guesses.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
