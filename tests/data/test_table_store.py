"""The table store's contract, on a local folder and on S3: encrypted, whole or not there, and back as it was."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from servicekit.errors import DataLoss, InvalidArgument, ResourceExhausted
from servicekit.objects import Objects
from servicekit.settings import StatefulSettings
from services.data.adapters.table_store import EncryptedTable, ObjectTableStore
from services.data.domain.columns import SERIES
from services.data.domain.types import Content, DatasetVersion, Provenance
from services.data.domain.work import Stop, Work

TABLE = pa.table({"n": [1, None, 3], "secret": ["alpha-omega", None, "x" * 5000]})


@pytest.fixture
def objects(stateful_settings: StatefulSettings) -> Objects:
    return Objects.open(stateful_settings, "data")


@pytest.fixture
def store(objects: Objects) -> ObjectTableStore:
    return ObjectTableStore(objects, 64 << 20, Work(2))


def _make(stop: Stop) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    return TABLE.schema, iter(TABLE.to_batches(max_chunksize=1))


def _version(content: Content, workspace: str = "default") -> DatasetVersion:
    return DatasetVersion(workspace, "d", 1, content, Provenance(), datetime.now(UTC))


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_table_comes_back_as_it_was(store: ObjectTableStore) -> None:
    content = await store.write("default", _make)
    assert (content.rows, [column.nullable for column in content.columns]) == (3, [True, True])
    opened = await store.open_table(_version(content))
    assert (await asyncio.to_thread(lambda: _whole(opened))).equals(TABLE)
    part = await asyncio.to_thread(lambda: _whole(opened, ["secret"]))
    assert part.column_names == ["secret"]
    profile = await store.profile(_version(content))
    assert [(column.name, column.missing) for column in profile] == [("n", 1), ("secret", 1)]


async def test_nothing_of_a_table_is_readable_at_rest(
    store: ObjectTableStore, stateful_settings: StatefulSettings
) -> None:
    import obstore

    from servicekit.stores import open_store

    await store.write("default", _make)
    raw = open_store(stateful_settings)
    paths = [entry["path"] for page in obstore.list(raw) for entry in page]
    assert len(paths) >= 3
    for path in paths:
        stored = bytes(obstore.get(raw, path).bytes())
        assert b"alpha-omega" not in stored
        assert b"xxxxxxxx" not in stored
        assert b"secret" not in stored


async def test_another_workspaces_key_does_not_open_a_table(store: ObjectTableStore) -> None:
    content = await store.write("default", _make)
    opened = await store.open_table(_version(content, workspace="other"))
    with pytest.raises(DataLoss):
        await asyncio.to_thread(lambda: _whole(opened))


async def test_write_that_fails_leaves_nothing(store: ObjectTableStore, objects: Objects) -> None:
    # As many rows as fill several groups.
    many = pa.concat_tables([TABLE] * 10_000).combine_chunks().to_batches() * 10

    def broken() -> Iterator[pa.RecordBatch]:
        yield from many
        raise InvalidArgument("row 300,001 is broken")

    with pytest.raises(InvalidArgument, match="300,001"):
        await store.write("default", lambda stop: (TABLE.schema, broken()))
    assert await objects.sweep([], timedelta(0)) == 0


async def test_upload_is_spooled_encrypted_and_seekable(store: ObjectTableStore, objects: Objects) -> None:
    pieces = [bytes([number]) * (3 << 20) for number in range(6)]
    upload = await store.spool("default", _chunks(*pieces))
    whole = b"".join(pieces)
    assert upload.sha256 == hashlib.sha256(whole).hexdigest()

    def read() -> tuple[bytes, bytes]:
        with upload.open(Stop()) as file:
            everything = file.read()
            file.seek(-5, 2)
            return everything, file.read()

    assert await asyncio.to_thread(read) == (whole, whole[-5:])
    await store.forget_spool(upload)
    assert await objects.sweep([], timedelta(0)) == 0


async def test_upload_over_the_limit_is_refused_and_leaves_nothing(objects: Objects) -> None:
    small = ObjectTableStore(objects, 10 << 20, Work(1))
    with pytest.raises(ResourceExhausted):
        await small.spool("default", _chunks(*([b"x" * (1 << 20)] * 11)))
    assert await objects.sweep([], timedelta(0)) == 0


async def test_write_whose_caller_goes_ends_and_leaves_nothing(store: ObjectTableStore, objects: Objects) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    passed = 0

    def endless() -> Iterator[pa.RecordBatch]:
        nonlocal passed
        while True:
            passed += 1
            loop.call_soon_threadsafe(begun.set)
            yield TABLE.to_batches()[0]

    writing = asyncio.create_task(store.write("default", lambda stop: (TABLE.schema, endless())))
    await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    # Nothing runs on behind the caller's back.
    seen = passed
    await asyncio.sleep(0.1)
    assert passed == seen
    assert await objects.sweep([], timedelta(0)) == 0


async def test_rows_come_back_whatever_their_types(store: ObjectTableStore) -> None:
    kinds = ["bool", "int8", "uint64", "float", "double", "string", "date32", "time32[s]", "time64[ns]", "duration[ms]"]
    kinds += ["timestamp[s]", "timestamp[ns]"]
    narrow = {"date32", "time32[s]"}
    columns = {
        kind: pa.array([0, None, 1], pa.int32() if kind in narrow else pa.int64()).cast(_type(kind)) for kind in kinds
    }
    columns["zoned"] = columns["timestamp[s]"].cast(pa.timestamp("us", "Asia/Kathmandu"))
    columns["series"] = pa.array([[1.0, None], None, []], SERIES)
    table = pa.table(columns)
    content = await store.write("default", lambda stop: (table.schema, iter(table.to_batches())))
    opened = await store.open_table(_version(content))
    assert await asyncio.to_thread(_whole, opened) == table


async def test_rows_are_read_from_any_place(store: ObjectTableStore) -> None:
    # Several row groups of several batches each.
    table = pa.table({"n": range(200_000), "t": [f"row {index}" for index in range(200_000)]})
    content = await store.write("default", lambda stop: (table.schema, iter(table.to_batches(max_chunksize=10_000))))
    opened = await store.open_table(_version(content))
    for first, most in ((0, 0), (0, 5), (16_383, 2), (65_000, 90_001), (199_999, 7), (150_000, 0), (200_000, 0)):
        rows = await asyncio.to_thread(lambda: list(opened.batches(["n"], first, most)))  # noqa: B023
        found = [value for batch in rows for value in batch.column(0).to_pylist()]
        assert found == list(range(first, min(first + (most or 200_000), 200_000)))
        assert all(batch.num_rows for batch in rows)


def _type(name: str) -> pa.DataType:
    return pa.type_for_alias(name)


def _whole(opened: EncryptedTable, columns: list[str] | None = None) -> pa.Table:
    return pa.Table.from_batches(list(opened.batches(columns)))
