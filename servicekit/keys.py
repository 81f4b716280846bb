"""Data keys, one a workspace, wrapped by the key-encryption key and kept beside the data.

No cipher format of our own: blobs use Tink's streaming AEAD, tables Parquet Modular Encryption, wrapping AES-GCM.
"""

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path

import obstore
import tink
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import ObjectStore
from tink import secret_key_access, streaming_aead

from servicekit.errors import FailedPrecondition
from servicekit.stores import make_durable, translated

_MASTER_KEY_BYTES = 32
_NONCE_BYTES = 12

streaming_aead.register()


class WorkspaceKeys:
    """The unwrapped keys of one workspace.

    Args:
        blob_keyset: a Tink keyset for streaming AEAD, as JSON.
        table_key: 32 bytes that wrap Parquet's own data keys.
    """

    def __init__(self, blob_keyset: str, table_key: bytes) -> None:
        handle = tink.json_proto_keyset_format.parse(blob_keyset, secret_key_access.TOKEN)
        self.blobs: streaming_aead.StreamingAead = handle.primitive(streaming_aead.StreamingAead)
        self.table_key = table_key


class KeyRing:
    """Makes, wraps and unwraps workspaces' keys.

    Args:
        store: where the wrapped keys lie, under `keys/`.
        key_encryption_key: path of a file with 32 bytes as base64.

    Raises:
        FailedPrecondition: the file does not hold such a key.
    """

    def __init__(self, store: ObjectStore, key_encryption_key: Path) -> None:
        self._store = store
        self._wrapping = AESGCM(_read_key(key_encryption_key))
        self._keys: dict[str, WorkspaceKeys] = {}
        self._lock = asyncio.Lock()

    async def workspace(self, workspace: str) -> WorkspaceKeys:
        """Return a workspace's keys, made on first use.

        Raises:
            FailedPrecondition: they were wrapped by another key-encryption key.
        """
        async with self._lock:
            if workspace not in self._keys:
                self._keys[workspace] = await self._load(workspace)
            return self._keys[workspace]

    def check(self) -> None:
        """Find out at start whether this is the key that the store's keys were wrapped by. Blocks.

        Raises:
            FailedPrecondition: it is another.
            Unavailable: the store does not answer.
        """
        self._kept("check", lambda: b"lepton")

    async def _load(self, workspace: str) -> WorkspaceKeys:
        keys = json.loads(await asyncio.to_thread(self._kept, f"{workspace}.key", _new_keys))
        return WorkspaceKeys(json.dumps(keys["blobs"]), base64.b64decode(keys["tables"]))

    def _kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Return what is kept wrapped under a name, made and kept first where it lacks."""
        path = f"keys/{name}"
        try:
            try:
                wrapped = bytes(obstore.get(self._store, path).bytes())
            except (FileNotFoundError, NotFoundError):
                # If absent, never over another: two processes that both make a first key must end with the same one.
                with contextlib.suppress(AlreadyExistsError):
                    obstore.put(self._store, path, self._wrap(make(), name), mode="create")
                wrapped = bytes(obstore.get(self._store, path).bytes())
            # Also by whom it was made: what it will encrypt must not outlive it.
            make_durable(self._store, path)
        except (OSError, BaseError) as error:
            raise translated(error) from error
        return self._unwrap(wrapped, name)

    def _wrap(self, content: bytes, name: str) -> bytes:
        nonce = _random(_NONCE_BYTES)
        return nonce + self._wrapping.encrypt(nonce, content, name.encode())

    def _unwrap(self, wrapped: bytes, name: str) -> bytes:
        try:
            return self._wrapping.decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], name.encode())
        except InvalidTag:
            raise FailedPrecondition(
                "the object store's keys were wrapped by another key-encryption key: restore that key file",
                reason="WRONG_KEY_ENCRYPTION_KEY",
            ) from None


def _new_keys() -> bytes:
    handle = tink.new_keyset_handle(streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_4KB)
    keyset = tink.json_proto_keyset_format.serialize(handle, secret_key_access.TOKEN)
    tables = base64.b64encode(_random(_MASTER_KEY_BYTES)).decode()
    return json.dumps({"blobs": json.loads(keyset), "tables": tables}).encode()


def _random(size: int) -> bytes:
    return secrets.token_bytes(size)


def _read_key(path: Path) -> bytes:
    try:
        key = base64.b64decode(path.read_text().strip(), validate=True)
    except (OSError, ValueError) as error:
        raise FailedPrecondition(f"cannot read the key-encryption key {path}: {error}") from error
    if len(key) != _MASTER_KEY_BYTES:
        raise FailedPrecondition(f"the key-encryption key {path} must be 32 bytes as base64, got {len(key)} bytes")
    return key
