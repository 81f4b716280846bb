"""Tables as Parquet that encrypts itself, uploads and profiles as encrypted objects, through servicekit's objects."""

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from lepton.v1 import data_pb2
from servicekit.errors import InvalidArgument, ResourceExhausted
from servicekit.objects import Objects, new_name
from servicekit.table_encryption import TableEncryption
from services.data.convert import profile_from_proto, profile_to_proto
from services.data.domain.digest import TableDigest, in_blocks
from services.data.domain.profile import ColumnProfile, profile_table
from services.data.domain.types import Content, DatasetVersion, columns_of

# One stored object of a spooled upload: small enough to hold, large enough that a big file makes few.
_SEGMENT_BYTES = 8 << 20
_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class SpooledUpload:
    """An upload in encrypted segments.

    Args:
        workspace: whose it is.
        segments: the objects' names, in order.
        size_bytes: of the whole.
        objects, loop: to read them from threads.
    """

    workspace: str
    segments: tuple[str, ...]
    size_bytes: int
    objects: Objects
    loop: asyncio.AbstractEventLoop

    def open(self) -> BinaryIO:
        """Open it from the start, seekable. Blocks: use a thread."""
        return cast(BinaryIO, io.BufferedReader(_Segments(self), 1 << 20))


@dataclass(frozen=True)
class EncryptedTable:
    """A version's rows.

    Args:
        objects, encryption: how to read them.
        workspace, name: the object.
        schema: of the rows.
    """

    objects: Objects
    encryption: TableEncryption
    workspace: str
    name: str
    schema: pa.Schema

    def reader(self, columns: list[str] | None = None) -> pa.RecordBatchReader:
        """Read from the start, some columns or all. Blocks: use a thread."""
        source = self.objects.table_reader(self.workspace, self.name)
        file = pq.ParquetFile(source, decryption_properties=self.encryption.decryption_properties())
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        batches = (batch.select(schema.names) for batch in file.iter_batches(_BATCH_ROWS, columns=columns))
        return pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in batches))


class ObjectTableStore:
    """The table store port on encrypted objects.

    Args:
        objects: the data service's.
        max_upload_bytes: a longer upload is refused.
    """

    def __init__(self, objects: Objects, max_upload_bytes: int) -> None:
        self._objects = objects
        self._max_upload_bytes = max_upload_bytes

    async def spool(self, workspace: str, chunks: AsyncIterator[bytes]) -> tuple[SpooledUpload, str]:
        """Keep an upload for reading; return it with the SHA-256 of its bytes."""
        upload = SpooledUpload(workspace, (), 0, self._objects, asyncio.get_running_loop())
        digest = hashlib.sha256()
        buffer = bytearray()
        try:
            async for chunk in chunks:
                digest.update(chunk)
                buffer += chunk
                if upload.size_bytes + len(buffer) > self._max_upload_bytes:
                    raise ResourceExhausted(
                        f"the upload is larger than {self._max_upload_bytes:,} bytes", reason="UPLOAD_TOO_LARGE"
                    )
                while len(buffer) >= _SEGMENT_BYTES:
                    upload = await self._add_segment(upload, bytes(buffer[:_SEGMENT_BYTES]))
                    del buffer[:_SEGMENT_BYTES]
            if buffer:
                upload = await self._add_segment(upload, bytes(buffer))
        except BaseException:
            await self.forget_spool(upload)
            raise
        return upload, digest.hexdigest()

    async def _add_segment(self, upload: SpooledUpload, content: bytes) -> SpooledUpload:
        stored = await self._objects.put_bytes(upload.workspace, content)
        segments = (*upload.segments, stored.name)
        return replace(upload, segments=segments, size_bytes=upload.size_bytes + len(content))

    async def forget_spool(self, upload: Any) -> None:
        """Delete an upload."""
        await self._objects.delete(upload.workspace, upload.segments)

    async def write(self, workspace: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Content:
        """Store rows as a table with its profile and digest; nothing is left where it fails."""
        name = new_name()
        encryption = await self._objects.table_encryption(workspace)
        try:
            nullable, rows, digest, size = await asyncio.to_thread(
                self._write, workspace, name, schema, batches, encryption
            )
            table = EncryptedTable(self._objects, encryption, workspace, name, schema)
            profile = profile_to_proto(await asyncio.to_thread(profile_table, table.reader))
            stored = await self._objects.put_bytes(workspace, profile.SerializeToString())
        except BaseException:
            await self._objects.delete(workspace, [name])
            raise
        return Content(name, stored.name, digest, columns_of(schema, nullable), rows, size)

    def _write(
        self,
        workspace: str,
        name: str,
        schema: pa.Schema,
        batches: Iterator[pa.RecordBatch],
        encryption: TableEncryption,
    ) -> tuple[list[bool], int, str, int]:
        digest = TableDigest(schema)
        nullable = [False] * len(schema)
        rows = 0
        sink = _Counting(self._objects.table_writer(workspace, name))
        properties = encryption.encryption_properties()
        with pq.ParquetWriter(sink, schema, compression="zstd", encryption_properties=properties) as writer:
            for block in in_blocks(batches, schema):
                digest.update(block)
                nullable = [
                    known or column.null_count > 0 for known, column in zip(nullable, block.columns, strict=True)
                ]
                rows += block.num_rows
                writer.write_batch(block)
            if rows == 0:
                raise InvalidArgument("no rows are left", reason="NO_ROWS")
        sink.commit()
        return nullable, rows, digest.hexdigest(), sink.size_bytes

    async def open_table(self, version: DatasetVersion) -> EncryptedTable:
        """Open a version's rows."""
        encryption = await self._objects.table_encryption(version.workspace)
        fields = [pa.field(column.name, _arrow_type(column.arrow_type)) for column in version.content.columns]
        return EncryptedTable(self._objects, encryption, version.workspace, version.content.table, pa.schema(fields))

    async def profile(self, version: DatasetVersion) -> list[ColumnProfile]:
        """Return a version's profile."""
        content = await self._objects.get_bytes(version.workspace, version.content.profile)
        return profile_from_proto(data_pb2.DatasetProfile.FromString(content))

    async def remove(self, workspace: str, contents: list[Content]) -> None:
        """Delete what was stored of some versions."""
        for content in contents:
            await self._objects.delete(workspace, (content.table, content.profile))


def _arrow_type(name: str) -> pa.DataType:
    """Return the type that Arrow prints as a name."""
    if name.startswith("timestamp["):
        unit, _, zone = name[len("timestamp[") : -1].partition(", tz=")
        return pa.timestamp(unit, zone or None)
    special = {"double": pa.float64(), "float": pa.float32(), "date32[day]": pa.date32(), "date64[ms]": pa.date64()}
    return special.get(name) or pa.type_for_alias(name)


class _Counting(io.RawIOBase):
    """Counts what is written, and closes the object only when the whole file was: a half-written one never shows."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._inner.write(content)
        self.size_bytes += len(content)
        return len(content)

    def commit(self) -> None:
        self._inner.close()


class _Segments(io.RawIOBase):
    """A seekable file over an upload's segments, one of them in memory at a time."""

    def __init__(self, upload: SpooledUpload) -> None:
        self._upload = upload
        self._position = 0
        self._index = -1
        self._content = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._upload.size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        index, start = divmod(self._position, _SEGMENT_BYTES)
        if index >= len(self._upload.segments):
            return 0
        if index != self._index:
            reading = self._upload.objects.get_bytes(self._upload.workspace, self._upload.segments[index])
            self._content = asyncio.run_coroutine_threadsafe(reading, self._upload.loop).result()
            self._index = index
        piece = self._content[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


__all__ = ["EncryptedTable", "ObjectTableStore", "SpooledUpload"]
