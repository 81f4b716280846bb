"""The database, on SQLite and Postgres: transactions, counters, migrations, and what a killed process leaves."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError

from servicekit.database import Database, next_number, open_database
from servicekit.errors import FailedPrecondition
from servicekit.migrations import drift
from tests.support.example.adapters.tables import counters, metadata, things
from tests.support.example_service import MIGRATIONS


async def _names(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list((await connection.execute(select(things.c.name).order_by(things.c.name))).scalars())


async def _add(database: Database, name: str) -> int:
    async with database.transaction() as transaction:
        number = await next_number(transaction, counters, "things")
        await transaction.execute(insert(things).values(name=name, state="new", number=number))
        return number


async def test_committed_rows_are_read_back(database: Database) -> None:
    await _add(database, "a")
    assert await _names(database) == ["a"]


async def test_a_failed_transaction_changes_nothing_and_gives_its_number_back(database: Database) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        async with database.transaction() as transaction:
            await next_number(transaction, counters, "things")
            await transaction.execute(insert(things).values(name="a", state="new", number=1))
            raise RuntimeError("on purpose")
    assert await _names(database) == []
    assert await _add(database, "b") == 1


async def test_a_cancelled_transaction_changes_nothing_and_blocks_nobody(database: Database) -> None:
    inside = asyncio.Event()

    async def hang() -> None:
        async with database.transaction() as transaction:
            await transaction.execute(insert(things).values(name="a", state="new", number=1))
            inside.set()
            await asyncio.sleep(600)

    task = asyncio.create_task(hang())
    await inside.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.wait_for(_add(database, "b"), 120)
    assert await _names(database) == ["b"]


async def test_concurrent_counters_have_neither_gaps_nor_repeats(database: Database) -> None:
    numbers = await asyncio.gather(*(_add(database, f"thing-{number}") for number in range(40)))
    assert sorted(numbers) == list(range(1, 41))


async def test_counters_of_two_processes_have_neither_gaps_nor_repeats(database_url: str) -> None:
    async with open_database(database_url, MIGRATIONS), open_database(database_url, MIGRATIONS):
        script = "import asyncio, sys; from tests.servicekit.adding import main; asyncio.run(main(*sys.argv[1:]))"
        running = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", script, database_url, f"p{number}", "30")
            for number in range(2)
        ]
        assert [await process.wait() for process in running] == [0, 0]
    async with open_database(database_url, MIGRATIONS) as database, database.reading() as connection:
        numbers = (await connection.execute(select(things.c.number).order_by(things.c.number))).scalars().all()
    assert list(numbers) == list(range(1, 61))


async def test_readers_go_on_while_a_writer_is_at_work(database: Database) -> None:
    await _add(database, "a")
    async with database.transaction() as transaction:
        await transaction.execute(insert(things).values(name="b", state="new", number=9))
        assert await asyncio.wait_for(_names(database), 120) == ["a"]


async def test_a_reader_sees_one_state(database: Database) -> None:
    async with database.reading() as connection:
        before = (await connection.execute(select(things.c.name))).all()
        await _add(database, "a")
        assert (await connection.execute(select(things.c.name))).all() == before


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(DBAPIError):
        async with database.reading() as connection:
            await connection.execute(insert(things).values(name="a", state="new", number=1))
    assert await _names(database) == []


async def test_migrations_make_the_tables_that_the_code_has(database_url: str) -> None:
    assert drift(database_url, MIGRATIONS, metadata) == []


async def test_several_processes_may_start_on_a_fresh_database_at_once(database_url: str) -> None:
    script = "import asyncio, sys; from tests.servicekit.adding import main; asyncio.run(main(*sys.argv[1:]))"
    running = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, database_url, f"p{number}", "1")
        for number in range(3)
    ]
    assert [await process.wait() for process in running] == [0, 0, 0]


async def test_a_database_of_a_newer_version_is_refused(database_url: str) -> None:
    async with open_database(database_url, MIGRATIONS) as database, database.transaction() as transaction:
        await transaction.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(FailedPrecondition, match="newer"):
        async with open_database(database_url, MIGRATIONS):
            pass


def _package_with_slow_migration(folder: Path) -> None:
    package = folder / "slowly"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "0001_two_tables.py").write_text(
        "import pathlib, time\nfrom alembic import op\nimport sqlalchemy as sa\n"
        "revision = '0001'\ndown_revision = None\n"
        "def upgrade():\n"
        "    op.create_table('first', sa.Column('id', sa.Integer, primary_key=True))\n"
        f"    marker = pathlib.Path({str(folder / 'inside')!r})\n"
        "    if not marker.exists():\n        marker.touch()\n        time.sleep(600)\n"
        "    op.create_table('second', sa.Column('id', sa.Integer, primary_key=True))\n"
    )


async def test_a_process_killed_in_a_migration_leaves_the_old_schema(database_url: str, tmp_path: Path) -> None:
    _package_with_slow_migration(tmp_path)
    script = (
        "import asyncio, sys; from servicekit.database import open_database\n"
        "async def main():\n    async with open_database(sys.argv[1], 'slowly'): pass\n"
        "asyncio.run(main())"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    command = [sys.executable, "-c", script, database_url]
    with subprocess.Popen(command, env=environment) as killed:
        while not (tmp_path / "inside").exists():
            assert killed.poll() is None
            await asyncio.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    again = await asyncio.create_subprocess_exec(*command, env=environment)
    assert await again.wait() == 0
