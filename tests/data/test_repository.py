"""The repository's contract, on SQLite and Postgres."""

import asyncio
import importlib
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from lepton.v1 import data_pb2
from servicekit.database import _upgrade, migration_engine, open_database
from servicekit.errors import InvalidArgument
from servicekit.migrations import drift
from servicekit.paging import Page
from servicekit.state import State
from services.data.adapters.repository import SqlRepository
from services.data.adapters.tables import datasets, kit, metadata, versions
from services.data.domain.datasets import add_version
from services.data.domain.types import Column, Content, DatasetVersion, Provenance, Recipe, Step

MIGRATIONS = "services.data.migrations"
Store = State[SqlRepository]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_database(database_url, MIGRATIONS) as database:
        yield State(database, kit, SqlRepository)


def _content(mark: str) -> Content:
    columns = (Column("x", "int64", nullable=False), Column("y", "string", nullable=True))
    return Content(f"table-{mark}", f"profile-{mark}", f"digest-{mark}", columns, 7, 100)


async def _add(store: Store, mark: str, dataset: str = "d", workspace: str = "default") -> DatasetVersion:
    async with store.writing() as repository:
        return await add_version(repository, workspace, dataset, _content(mark), Provenance(label="y"))


async def _facts(store: Store) -> list[str]:
    async with store.database.reading() as connection:
        rows = (await connection.execute(kit.outbox.select().order_by(kit.outbox.c.sequence))).all()
    return [row.subject for row in rows]


def test_the_migrations_make_the_tables(database_url: str) -> None:
    assert drift(database_url, MIGRATIONS, metadata) == []


async def test_version_comes_back_as_it_was_kept(store: Store) -> None:
    recipe = Recipe((Step("drop_columns", {"columns": ["a", "b"]}), Step("filter", {"expression": "x > 1"})), True)
    provenance = Provenance("y", "file.csv", recipe, "other@3")
    async with store.writing() as repository:
        kept = await repository.add_version("default", "d", _content("a"), provenance)
    async with store.reading() as repository:
        assert await repository.find_version("default", "d", 1) == kept
        assert await repository.find_version("default", "d", None) == kept
        assert await repository.find_version("other", "d", 1) is None


async def test_what_is_the_same_as_the_newest_is_the_same_version(store: Store) -> None:
    first = await _add(store, "a")
    assert await _add(store, "a") == first
    assert (await _add(store, "b")).number == 2
    # The newest is what was imported last, not what was new then.
    assert (await _add(store, "a")).number == 3
    assert (await _add(store, "a")).number == 3
    assert (await _add(store, "a", dataset="e")).number == 1
    assert (await _add(store, "a", workspace="other")).number == 1
    assert await _facts(store) == ["data.version.created"] * 5


@pytest.mark.parametrize(
    "other",
    [
        Provenance(label="x"),
        Provenance(label="y", recipe=Recipe((Step("drop_missing", {"columns": []}),))),
        Provenance(label="y", parent="e@1"),
    ],
)
async def test_same_content_of_another_origin_is_a_new_version(store: Store, other: Provenance) -> None:
    first = await _add(store, "a")
    async with store.writing() as repository:
        second = await add_version(repository, "default", "d", _content("a"), other)
    assert (first.number, second.number, second.provenance) == (1, 2, other)


async def test_numbers_have_no_gaps_under_load_and_are_never_used_again(store: Store) -> None:
    made = await asyncio.gather(*(_add(store, str(mark)) for mark in range(20)))
    assert sorted(version.number for version in made) == list(range(1, 21))
    with pytest.raises(RuntimeError):
        async with store.writing() as repository:
            await repository.add_version("default", "d", _content("lost"), Provenance())
            raise RuntimeError
    async with store.writing() as repository:
        newest = await repository.find_version("default", "d", 20)
        assert newest is not None
        await repository.remove_version(newest)
    assert (await _add(store, "next")).number == 21


async def test_deleted_dataset_is_gone_with_its_versions(store: Store) -> None:
    await _add(store, "a")
    await _add(store, "b")
    async with store.writing() as repository:
        removed = await repository.remove_dataset("default", "d")
    assert len(removed) == 2
    async with store.reading() as repository:
        assert await repository.find_dataset("default", "d") is None
        assert await repository.object_names() == []
    assert (await _facts(store)).count("data.version.deleted") == 2


async def test_lists_are_paged_filtered_and_ordered(store: Store) -> None:
    for name in ("c", "a", "b"):
        await _add(store, "x", dataset=name)
    await _add(store, "x", dataset="hidden", workspace="other")
    async with store.reading() as repository:
        first, token = await repository.list_datasets("default", Page(size=2))
        rest, last = await repository.list_datasets("default", Page(size=2, token=token))
        assert [item.name for item in first + rest] == ["a", "b", "c"]
        assert last == ""
        found, _ = await repository.list_datasets("default", Page(filter='name = "b"'))
        assert [(item.name, item.latest_version) for item in found] == [("b", 1)]
        newest, _ = await repository.list_datasets("default", Page(order_by="create_time desc"))
        assert [item.name for item in newest] == ["b", "a", "c"]
        with pytest.raises(InvalidArgument, match="name"):
            await repository.list_datasets("default", Page(filter='nope = "b"'))


async def test_version_of_before_the_migration_is_kept(database_url: str, tmp_path: Path) -> None:
    folder = Path(str(importlib.import_module(MIGRATIONS).__file__)).parent
    for name in ("__init__.py", "0001_first_tables.py"):
        shutil.copy(folder / name, tmp_path)
    engine = migration_engine(make_url(database_url))
    with engine.connect() as connection:
        _upgrade(connection, tmp_path)
        now = datetime.now(UTC)
        connection.execute(datasets.insert().values(workspace="default", name="d", create_time=now))
        known = {"workspace": "default", "dataset": "d", "number": 9, "digest": "digest-a", "rows": 7, "size_bytes": 9}
        about = data_pb2.DatasetVersion(dataset="d", number=9, label="y", digest="digest-a", rows=7)
        objects = {"table_object": "t", "profile_object": "p", "create_time": now}
        connection.execute(versions.insert().values(known | objects | {"description": about.SerializeToString()}))
        connection.commit()
    engine.dispose()
    async with open_database(database_url, MIGRATIONS) as database:
        store = State(database, kit, SqlRepository)
        async with store.reading() as repository:
            kept = await repository.find_version("default", "d", 9)
        assert kept is not None
        assert (kept.content.table, kept.content.rows, kept.provenance.label) == ("t", 7, "y")
        async with store.writing() as repository:
            other = await repository.add_version("default", "d", _content("a"), Provenance())
        assert other.content.digest == kept.content.digest
