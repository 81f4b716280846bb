"""Encrypted objects in a local folder, S3, GCS or Azure: streamed in and out, whole or not there at all.

Names are random, so they tell nothing; digests are SHA-256 of the plaintext.
"""

import asyncio
import hashlib
import io
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import ObjectStore
from tink import TinkError

from servicekit.errors import DataLoss
from servicekit.keys import KeyRing
from servicekit.settings import StatefulSettings
from servicekit.stores import make_durable, open_store, remove_unfinished, translated

if TYPE_CHECKING:
    from servicekit.table_encryption import TableEncryption

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredObject:
    """What was stored.

    Args:
        name: its random name.
        size_bytes: size of the plaintext.
        sha256: of the plaintext, lower-case hex.
    """

    name: str
    size_bytes: int
    sha256: str


class Objects:
    """The objects of one service.

    Args:
        store: where they lie.
        keys: what encrypts them.
        service: whose they are; the first part of every path.
    """

    def __init__(self, store: ObjectStore, keys: KeyRing, service: str) -> None:
        self._store = store
        self._keys = keys
        self._service = service

    @classmethod
    def open(cls, settings: StatefulSettings, service: str) -> "Objects":
        """Open the store that the settings name. Blocks; for a process's start.

        Raises:
            FailedPrecondition: the key-encryption key cannot be read, or is not the one that the store's keys need.
            Unavailable: the store does not answer.
        """
        store = open_store(settings)
        keys = KeyRing(store, settings.key_encryption_key_file)
        keys.check()
        return cls(store, keys, service)

    async def put(self, workspace: str, chunks: AsyncIterator[bytes], *, name: str | None = None) -> StoredObject:
        """Encrypt and store a stream; nothing is visible before its last byte.

        Raises:
            ResourceExhausted: the disk is full.
            Unavailable: the store does not answer.
        """
        name = name or new_name()
        keys = await self._keys.workspace(workspace)
        digest = hashlib.sha256()
        size = 0

        async def ciphertext() -> AsyncIterator[bytes]:
            nonlocal size
            sink = _Sink()
            stream = keys.blobs.new_encrypting_stream(sink, self._associated(workspace, name))
            async for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                stream.write(chunk)
                if piece := sink.take():
                    yield piece
            stream.close()
            yield sink.take()

        failure: list[BaseException] = []
        try:
            await obstore.put_async(self._store, self._path(workspace, name), _remembering(ciphertext(), failure))
        except Exception as error:
            # The store wraps what the stream raised; the caller wants its own error back.
            raise (failure[0] if failure else translated(error)) from error
        await asyncio.to_thread(make_durable, self._store, self._path(workspace, name))
        return StoredObject(name, size, digest.hexdigest())

    async def put_bytes(self, workspace: str, content: bytes) -> StoredObject:
        """Encrypt and store some bytes."""

        async def whole() -> AsyncIterator[bytes]:
            yield content

        return await self.put(workspace, whole())

    async def get(self, workspace: str, name: str) -> AsyncIterator[bytes]:
        """Yield an object's plaintext in pieces of at most 1 MiB.

        Raises:
            DataLoss: it is gone, or was changed.
        """
        keys = await self._keys.workspace(workspace)
        source: _Reader | None = None
        try:
            source = await asyncio.to_thread(self._reader, workspace, name)
            stream = await asyncio.to_thread(
                keys.blobs.new_decrypting_stream, source, self._associated(workspace, name)
            )
            while chunk := await asyncio.to_thread(stream.read, _CHUNK_BYTES):
                yield chunk
        except (TinkError, NotFoundError, FileNotFoundError) as error:
            if source is not None and source.failure is not None:
                # The store went away while we read; that the cipher sees a short stream then proves nothing.
                raise translated(source.failure) from error
            raise DataLoss(
                f"a stored object of {self._service} is missing or damaged", reason="OBJECT_DAMAGED"
            ) from error
        except (OSError, BaseError) as error:
            raise translated(error) from error

    async def get_bytes(self, workspace: str, name: str) -> bytes:
        """Return an object's plaintext."""
        return b"".join([chunk async for chunk in self.get(workspace, name)])

    async def delete(self, workspace: str, names: Iterable[str]) -> None:
        """Delete objects; those that are gone already do not matter."""
        for name in names:
            try:
                await obstore.delete_async(self._store, self._path(workspace, name))
            except (NotFoundError, FileNotFoundError):
                continue
            except (OSError, BaseError) as error:
                raise translated(error) from error

    async def table_encryption(self, workspace: str) -> "TableEncryption":
        """Return the encryption of a workspace's Parquet files."""
        # pyarrow is 20 MB that services without tables do without.
        from servicekit.table_encryption import TableEncryption

        return TableEncryption(await self._keys.workspace(workspace))

    def table_writer(self, workspace: str, name: str) -> Any:
        """Return a writable file for a Parquet file that encrypts itself; visible once closed. Blocks: use a thread."""
        path = self._path(workspace, name)
        return _Writer(obstore.open_writer(self._store, path), lambda: make_durable(self._store, path))

    def table_reader(self, workspace: str, name: str) -> io.BufferedReader:
        """Return a seekable file of a Parquet file that is encrypted by itself. Blocks: use a thread.

        Raises:
            DataLoss: it is gone.
        """
        try:
            return io.BufferedReader(self._reader(workspace, name), _CHUNK_BYTES)
        except (NotFoundError, FileNotFoundError) as error:
            raise DataLoss(f"a stored table of {self._service} is missing", reason="OBJECT_DAMAGED") from error

    async def sweep(self, known: Iterable[str], older_than: timedelta) -> int:
        """Delete this service's objects that no row names: what a killed process left. Return how many.

        Args:
            known: every name that the database holds.
            older_than: spare younger ones, whose row may be on its way.
        """
        kept = set(known)
        limit = datetime.now(UTC) - older_than
        orphans = []
        async for page in obstore.list(self._store, prefix=f"{self._service}/"):
            orphans += [
                entry["path"]
                for entry in page
                if entry["path"].rsplit("/", 1)[1] not in kept and entry["last_modified"] < limit
            ]
        for path in orphans:
            await obstore.delete_async(self._store, path)
        return len(orphans) + await asyncio.to_thread(remove_unfinished, self._store, self._service, limit)

    def _reader(self, workspace: str, name: str) -> "_Reader":
        return _Reader(obstore.open_reader(self._store, self._path(workspace, name)))

    def _path(self, workspace: str, name: str) -> str:
        return f"{self._service}/{workspace}/{name}"

    def _associated(self, workspace: str, name: str) -> bytes:
        # Binds the ciphertext to its place: an object copied over another does not decrypt.
        return self._path(workspace, name).encode()


def new_name() -> str:
    """Return a fresh random object name."""
    return uuid.uuid4().hex


async def _remembering(chunks: AsyncIterator[bytes], failure: list[BaseException]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except Exception as error:
        failure.append(error)
        raise


class _Sink(io.RawIOBase):
    """Collects ciphertext until it is taken."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._buffer)
        self._buffer.clear()
        return taken

    def close(self) -> None:
        # Tink closes its destination; what it wrote last is still to be taken.
        return


class _Reader(io.RawIOBase):
    """The store's reader as a standard raw file."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = bytes(self._inner.read(len(buffer)))
        except Exception as error:
            self.failure = error
            raise
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())


class _Writer:
    """The store's writer; what it wrote is visible, and on the disk, once it is closed, never if it is just dropped."""

    def __init__(self, inner: Any, settle: Callable[[], None]) -> None:
        self._inner = inner
        self._settle = settle
        self.closed = False

    def write(self, data: Any) -> int:
        try:
            return int(self._inner.write(data))
        except (OSError, BaseError) as error:
            raise translated(error) from error

    def flush(self) -> None:
        """Nothing is to be seen before the end."""

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        try:
            self._inner.close()
        except (OSError, BaseError) as error:
            raise translated(error) from error
        self._settle()
