"""Data keys under the key-encryption key, on a local folder and on S3."""

import asyncio
import base64
import os
from pathlib import Path

import obstore
import pytest
from obstore.store import ObjectStore

from servicekit.errors import FailedPrecondition
from servicekit.keys import KeyRing
from servicekit.objects import Objects
from servicekit.settings import StatefulSettings
from servicekit.stores import open_store


@pytest.fixture
def store(stateful_settings: StatefulSettings) -> ObjectStore:
    """An empty object store, once of each kind."""
    return open_store(stateful_settings)


def _key_file(folder: Path, name: str = "kek") -> Path:
    path = folder / name
    path.write_text(base64.b64encode(os.urandom(32)).decode())
    return path


async def test_processes_that_make_a_first_key_at_once_end_with_the_same(store: ObjectStore, tmp_path: Path) -> None:
    file = _key_file(tmp_path)
    keys = await asyncio.gather(*(KeyRing(store, file).workspace("default") for _ in range(8)))
    assert len({key.table_key for key in keys}) == 1


async def test_keys_outlive_the_process_and_differ_by_workspace(store: ObjectStore, tmp_path: Path) -> None:
    file = _key_file(tmp_path)
    first = await KeyRing(store, file).workspace("one")
    assert (await KeyRing(store, file).workspace("one")).table_key == first.table_key
    assert (await KeyRing(store, file).workspace("two")).table_key != first.table_key


async def test_no_key_lies_unwrapped_in_the_store(store: ObjectStore, tmp_path: Path) -> None:
    key = (await KeyRing(store, _key_file(tmp_path)).workspace("one")).table_key
    wrapped = bytes(obstore.get(store, "keys/one.key").bytes())
    assert key not in wrapped
    assert base64.b64encode(key) not in wrapped


async def test_another_key_encryption_key_is_told_at_start(stateful_settings: StatefulSettings, tmp_path: Path) -> None:
    Objects.open(stateful_settings, "data")
    other = stateful_settings.model_copy(update={"key_encryption_key_file": _key_file(tmp_path)})
    with pytest.raises(FailedPrecondition) as caught:
        Objects.open(other, "data")
    assert caught.value.reason == "WRONG_KEY_ENCRYPTION_KEY"


async def test_a_key_wrapped_for_one_workspace_does_not_open_another(store: ObjectStore, tmp_path: Path) -> None:
    file = _key_file(tmp_path)
    await KeyRing(store, file).workspace("one")
    obstore.copy(store, "keys/one.key", "keys/two.key")
    with pytest.raises(FailedPrecondition):
        await KeyRing(store, file).workspace("two")


@pytest.mark.parametrize("content", ["", "not base64!", base64.b64encode(b"short").decode()])
async def test_a_file_that_holds_no_key_is_told(store: ObjectStore, tmp_path: Path, content: str) -> None:
    file = tmp_path / "kek"
    file.write_text(content)
    with pytest.raises(FailedPrecondition, match="key-encryption key"):
        KeyRing(store, file)


async def test_a_missing_key_file_is_told(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot read"):
        KeyRing(store, tmp_path / "none")
