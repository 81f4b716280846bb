"""Encrypted objects, on a local folder and on S3: whole or not there, damaged is told, orphans are swept."""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import ObjectStore

from servicekit.errors import DataLoss, InvalidArgument, Unavailable
from servicekit.objects import Objects
from servicekit.settings import StatefulSettings
from servicekit.stores import open_store
from tests.support.example_service import make_settings
from tests.support.s3 import ObjectsEnvironment

MEBIBYTE = 1 << 20


@pytest.fixture
def objects(stateful_settings: StatefulSettings) -> Objects:
    """The objects of a service, once of each kind of store."""
    return Objects.open(stateful_settings, "data")


@pytest.fixture
def store(stateful_settings: StatefulSettings) -> ObjectStore:
    """What lies behind them."""
    return open_store(stateful_settings)


def _stored(store: ObjectStore) -> list[str]:
    return sorted(entry["path"] for entry in obstore.list(store).collect() if not entry["path"].startswith("keys/"))


def _files(settings: StatefulSettings) -> list[str]:
    folder = Path(settings.objects_url.removeprefix("file://"))
    return [str(file) for file in folder.rglob("*") if file.is_file() and "keys" not in file.parts]


async def _stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _large(mebibytes: int) -> AsyncIterator[bytes]:
    for index in range(mebibytes):
        yield bytes([index % 256]) * MEBIBYTE


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 3 * MEBIBYTE + 17])
async def test_what_is_put_is_got(objects: Objects, size: int) -> None:
    content = os.urandom(size)
    stored = await objects.put("default", _stream(content[: size // 2], b"", content[size // 2 :]))
    assert stored.size_bytes == size
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert await objects.get_bytes("default", stored.name) == content


async def test_nothing_readable_lies_in_the_store(objects: Objects, store: ObjectStore) -> None:
    await objects.put("default", _stream(b"a very secret row " * 1000))
    (path,) = _stored(store)
    assert b"secret" not in bytes(obstore.get(store, path).bytes())


async def test_a_stream_that_fails_leaves_nothing_and_keeps_its_error(objects: Objects, store: ObjectStore) -> None:
    async def failing() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield os.urandom(MEBIBYTE)
        raise InvalidArgument("row 7 is ragged")

    with pytest.raises(InvalidArgument, match="row 7"):
        await objects.put("default", failing())
    assert _stored(store) == []


async def test_a_cancelled_put_leaves_nothing(objects: Objects, store: ObjectStore) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield os.urandom(MEBIBYTE)
        begun.set()
        await asyncio.sleep(600)

    task = asyncio.create_task(objects.put("default", endless()))
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.1)
    assert _stored(store) == []


async def test_a_missing_object_is_data_loss(objects: Objects) -> None:
    with pytest.raises(DataLoss, match="missing or damaged"):
        await objects.get_bytes("default", "0" * 32)


@pytest.mark.parametrize("damage", ["flip", "truncate", "append", "swap"])
async def test_a_damaged_object_is_data_loss(objects: Objects, store: ObjectStore, damage: str) -> None:
    name = (await objects.put("default", _stream(b"first" * 10_000))).name
    other = (await objects.put("default", _stream(b"other" * 10_000))).name
    content = bytearray(obstore.get(store, f"data/default/{name}").bytes())
    match damage:
        case "flip":
            content[len(content) // 2] ^= 1
        case "truncate":
            del content[4096:]
        case "append":
            content += b"more"
        case _:
            content = bytearray(obstore.get(store, f"data/default/{other}").bytes())
    obstore.put(store, f"data/default/{name}", bytes(content))
    with pytest.raises(DataLoss):
        await objects.get_bytes("default", name)


async def test_another_workspace_cannot_read_it(objects: Objects, store: ObjectStore) -> None:
    name = (await objects.put("one", _stream(b"of one"))).name
    await objects.put("two", _stream(b"of two"))
    obstore.copy(store, f"data/one/{name}", f"data/two/{name}")
    with pytest.raises(DataLoss):
        await objects.get_bytes("two", name)


async def test_deleting_twice_is_deleting_once(objects: Objects, store: ObjectStore) -> None:
    stored = await objects.put("default", _stream(b"x"))
    await objects.delete("default", [stored.name])
    await objects.delete("default", [stored.name])
    assert _stored(store) == []


async def test_the_sweep_takes_old_orphans_alone(objects: Objects, store: ObjectStore) -> None:
    known = await objects.put("default", _stream(b"known"))
    await objects.put("default", _stream(b"orphan"))
    assert await objects.sweep([known.name], timedelta(minutes=5)) == 0
    assert await objects.sweep([known.name], timedelta(seconds=-5)) == 1
    assert _stored(store) == [f"data/default/{known.name}"]


async def test_the_sweep_takes_what_a_killed_upload_left_in_a_folder(
    local_objects: ObjectsEnvironment, platform_files: Path
) -> None:
    settings = make_settings(platform_files, local_objects)
    script = """
import asyncio, os, signal, sys
from servicekit.objects import Objects
from servicekit.settings import StatefulSettings
async def cut():
    for _ in range(24):
        yield bytes(1 << 20)
    os.kill(os.getpid(), signal.SIGKILL)
objects = Objects.open(StatefulSettings.model_validate_json(sys.argv[1]), "data")
asyncio.run(objects.put("default", cut()))
"""
    plain = settings.model_dump_json(exclude_none=True)
    cut = subprocess.run([sys.executable, "-c", script, plain], check=False)
    assert cut.returncode == -9
    known = await Objects.open(settings, "data").put("default", _stream(b"known"))
    assert len(_files(settings)) == 2
    objects = Objects.open(settings, "data")
    assert await objects.sweep([known.name], timedelta(minutes=5)) == 0
    assert await objects.sweep([known.name], timedelta(seconds=-5)) == 1
    assert [Path(file).name for file in _files(settings)] == [known.name]


async def test_memory_stays_bounded(local_objects: ObjectsEnvironment, platform_files: Path) -> None:
    objects = Objects.open(make_settings(platform_files, local_objects), "data")
    await objects.put("default", _large(4))
    before = psutil.Process().memory_info().rss
    stored = await objects.put("default", _large(300))
    digest = hashlib.sha256()
    async for chunk in objects.get("default", stored.name):
        digest.update(chunk)
    assert digest.hexdigest() == stored.sha256
    assert psutil.Process().memory_info().rss - before < 150 * MEBIBYTE


async def test_a_full_disk_leaves_nothing(local_objects: ObjectsEnvironment, platform_files: Path) -> None:
    # A limit on the size of files stands for a full disk: it needs no disk of its own, and fails in the same calls.
    script = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from servicekit.errors import ResourceExhausted
from servicekit.objects import Objects
from tests.support.example_service import make_settings
from tests.support.s3 import ObjectsEnvironment

async def main():
    objects = Objects.open(make_settings(Path(sys.argv[1]), ObjectsEnvironment(sys.argv[2])), "data")
    await objects.put_bytes("default", b"small")
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))
    async def large():
        for _ in range(40):
            yield os.urandom(1 << 20)
    try:
        await objects.put("default", large())
    except ResourceExhausted as error:
        print(error.reason)

asyncio.run(main())
"""
    command = [sys.executable, "-c", script, str(platform_files), local_objects.objects_url]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path.cwd(), env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.stdout.strip() == "DISK_FULL"
    folder = Path(local_objects.objects_url.removeprefix("file://"))
    assert len([file for file in (folder / "data").rglob("*") if file.is_file()]) == 1


async def test_a_store_that_is_away_is_unavailable_not_data_loss(
    s3_objects: ObjectsEnvironment, platform_files: Path
) -> None:
    settings = make_settings(platform_files, s3_objects)
    objects = Objects.open(settings, "data")
    stored = await objects.put("default", _stream(b"x"))
    away = Objects(
        open_store(settings.model_copy(update={"objects_endpoint": "http://127.0.0.1:9"})), objects._keys, "data"
    )
    with pytest.raises(Unavailable):
        await away.get_bytes("default", stored.name)


async def _write_table(objects: Objects, name: str, *, fail: bool = False) -> None:
    encryption = await objects.table_encryption("default")
    table = pa.table({"city": ["Berlin", "Paris"] * 1000, "age": list(range(2000))})

    def write() -> None:
        sink = objects.table_writer("default", name)
        properties = encryption.encryption_properties()
        with pq.ParquetWriter(pa.PythonFile(sink, "w"), table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)
            if fail:
                raise InvalidArgument("on purpose")
        sink.close()

    await asyncio.to_thread(write)


async def test_an_encrypted_table_is_read_back(objects: Objects, store: ObjectStore) -> None:
    await _write_table(objects, "t1")
    assert b"Berlin" not in bytes(obstore.get(store, "data/default/t1").bytes())
    encryption = await objects.table_encryption("default")

    def read() -> pa.Table:
        with objects.table_reader("default", "t1") as file:
            return pq.read_table(file, decryption_properties=encryption.decryption_properties())

    table = await asyncio.to_thread(read)
    assert table.num_rows == 2000
    assert table["city"][0].as_py() == "Berlin"


async def test_a_table_needs_its_workspace_keys(objects: Objects) -> None:
    await _write_table(objects, "t1")
    encryption = await objects.table_encryption("other")

    def read() -> Any:
        with objects.table_reader("default", "t1") as file:
            return pq.read_table(file, decryption_properties=encryption.decryption_properties())

    with pytest.raises(DataLoss):
        await asyncio.to_thread(read)


async def test_a_missing_table_is_data_loss(objects: Objects) -> None:
    with pytest.raises(DataLoss):
        await asyncio.to_thread(objects.table_reader, "default", "none")
