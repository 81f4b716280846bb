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
from services.data.adapters.table_store import ObjectTableStore
from services.data.domain.datasets import Datasets
from services.data.domain.types import Content, DatasetVersion, FileFormat, Provenance

TABLE = pa.table({"n": [1, None, 3], "secret": ["alpha-omega", None, "x" * 5000]})


@pytest.fixture
def objects(stateful_settings: StatefulSettings) -> Objects:
    return Objects.open(stateful_settings, "data")


@pytest.fixture
def store(objects: Objects) -> ObjectTableStore:
    return ObjectTableStore(objects, max_upload_bytes=64 << 20)


def _version(content: Content, workspace: str = "default") -> DatasetVersion:
    return DatasetVersion(workspace, "d", 1, content, Provenance(), datetime.now(UTC))


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_table_comes_back_as_it_was(store: ObjectTableStore) -> None:
    content = await store.write("default", TABLE.schema, iter(TABLE.to_batches()))
    assert (content.rows, [column.nullable for column in content.columns]) == (3, [True, True])
    opened = await store.open_table(_version(content))
    assert (await asyncio.to_thread(lambda: opened.reader().read_all())).equals(TABLE)
    part = await asyncio.to_thread(lambda: opened.reader(["secret"]).read_all())
    assert part.column_names == ["secret"]
    profile = await store.profile(_version(content))
    assert [(column.name, column.missing) for column in profile] == [("n", 1), ("secret", 1)]


async def test_nothing_of_a_table_is_readable_at_rest(
    store: ObjectTableStore, stateful_settings: StatefulSettings
) -> None:
    import obstore

    from servicekit.stores import open_store

    await store.write("default", TABLE.schema, iter(TABLE.to_batches()))
    raw = open_store(stateful_settings)
    paths = [entry["path"] for page in obstore.list(raw) for entry in page]
    assert len(paths) >= 3
    for path in paths:
        stored = bytes(obstore.get(raw, path).bytes())
        assert b"alpha-omega" not in stored
        assert b"xxxxxxxx" not in stored
        assert b"secret" not in stored


async def test_another_workspaces_key_does_not_open_a_table(store: ObjectTableStore) -> None:
    content = await store.write("default", TABLE.schema, iter(TABLE.to_batches()))
    opened = await store.open_table(_version(content, workspace="other"))
    with pytest.raises(DataLoss):
        await asyncio.to_thread(lambda: opened.reader().read_all())


async def test_write_that_fails_leaves_nothing(store: ObjectTableStore, objects: Objects) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield TABLE.to_batches()[0]
        raise InvalidArgument("row 70,000 is broken")

    with pytest.raises(InvalidArgument, match="70,000"):
        await store.write("default", TABLE.schema, broken())
    assert await objects.sweep([], timedelta(0)) == 0


async def test_upload_is_spooled_encrypted_and_seekable(store: ObjectTableStore, objects: Objects) -> None:
    pieces = [bytes([number]) * (3 << 20) for number in range(6)]
    upload, digest = await store.spool("default", _chunks(*pieces))
    whole = b"".join(pieces)
    assert digest == hashlib.sha256(whole).hexdigest()

    def read() -> tuple[bytes, bytes]:
        with upload.open() as file:
            everything = file.read()
            file.seek(-5, 2)
            return everything, file.read()

    assert await asyncio.to_thread(read) == (whole, whole[-5:])
    await store.forget_spool(upload)
    assert await objects.sweep([], timedelta(0)) == 0


async def test_upload_over_the_limit_is_refused_and_leaves_nothing(objects: Objects) -> None:
    small = ObjectTableStore(objects, max_upload_bytes=10 << 20)
    with pytest.raises(ResourceExhausted):
        await small.spool("default", _chunks(*([b"x" * (1 << 20)] * 11)))
    assert await objects.sweep([], timedelta(0)) == 0


@pytest.mark.parametrize(("digest", "reason"), [("0" * 64, "TRUNCATED_UPLOAD"), ("", "EMPTY_FILE")])
async def test_import_that_is_refused_leaves_nothing(
    store: ObjectTableStore, objects: Objects, digest: str, reason: str
) -> None:
    datasets = Datasets(store, lambda: pytest.fail("nothing is read"))
    given = digest or hashlib.sha256(b"a,b\n").hexdigest()
    with pytest.raises(InvalidArgument) as refusal:
        await datasets.import_file("default", _chunks(b"a,b\n"), lambda: given, FileFormat.CSV, "", "")
    assert refusal.value.reason == reason
    assert await objects.sweep([], timedelta(0)) == 0
