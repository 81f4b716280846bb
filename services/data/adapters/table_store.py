"""Tables as Parquet that encrypts itself, uploads and profiles as encrypted objects, through servicekit's objects."""

import asyncio
import hashlib
import io
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from lepton.v1 import data_pb2
from servicekit.errors import InvalidArgument, ResourceExhausted
from servicekit.objects import Objects, new_name
from servicekit.table_encryption import TableEncryption
from services.data.convert import profile_from_proto, profile_to_proto
from services.data.domain.columns import SERIES
from services.data.domain.digest import TableDigest
from services.data.domain.original_texts import companion, listed_schema
from services.data.domain.profile import ColumnProfile, TableProfile
from services.data.domain.types import Content, DatasetVersion, columns_of
from services.data.domain.work import Stop, Work
from services.data.ports import MakeRows

# One stored object of a spooled upload: small enough to hold, large enough that a big file makes few.
_SEGMENT_BYTES = 8 << 20
# Parquet is read at its end, then in several places: so many segments are held.
_SEGMENTS_HELD = 4
_BATCH_ROWS = 16_384
# A row group is held while it is written, and while it is read.
_GROUP_ROWS = 65_536
_GROUP_BYTES = 16 << 20


@dataclass(frozen=True)
class SpooledUpload:
    """An upload in encrypted segments.

    Args:
        workspace: whose it is.
        segments: the objects' names, in order.
        size_bytes: of the whole.
        sha256: of the whole.
        objects, loop: to read them from threads.
    """

    workspace: str
    segments: tuple[str, ...]
    size_bytes: int
    sha256: str
    objects: Objects
    loop: asyncio.AbstractEventLoop

    def open(self, stop: Stop) -> BinaryIO:
        """Open it from the start, seekable. Blocks: use a thread."""
        return cast(BinaryIO, io.BufferedReader(_Segments(self, stop), 1 << 20))


@dataclass(frozen=True)
class EncryptedTable:
    """A version's rows.

    Args:
        objects, encryption: how to read them.
        workspace, name: the object.
        schema: of the columns that users see.
        stored_schema: the same, then the companions with their texts.
    """

    objects: Objects
    encryption: TableEncryption
    workspace: str
    name: str
    schema: pa.Schema
    stored_schema: pa.Schema

    def batches(
        self, columns: list[str] | None = None, first_row: int = 0, most_rows: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """Read from a row on, some columns or all, always in the same batches. Blocks: use a thread."""
        columns = self.schema.names if columns is None else columns
        schema = pa.schema([self.stored_schema.field(name) for name in columns])
        with (
            self.objects.table_reader(self.workspace, self.name) as source,
            pq.ParquetFile(source, decryption_properties=self.encryption.decryption_properties()) as file,
        ):
            end = first_row + most_rows if most_rows else file.metadata.num_rows
            start = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if start < end and start + rows > first_row:
                    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                        wanted = _overlap(batch, start, first_row, end)
                        start += batch.num_rows
                        if wanted.num_rows:
                            yield wanted.select(schema.names).cast(schema)
                        if start >= end:
                            return
                else:
                    # Other groups are not even read.
                    start += rows


class ObjectTableStore:
    """The table store port on encrypted objects.

    Args:
        objects: the data service's.
        max_upload_bytes: a longer upload is refused.
        work: where tables are written.
    """

    def __init__(self, objects: Objects, max_upload_bytes: int, work: Work) -> None:
        self._objects = objects
        self._max_upload_bytes = max_upload_bytes
        self._work = work

    async def spool(self, workspace: str, chunks: AsyncIterator[bytes]) -> SpooledUpload:
        """Keep an upload for reading; nothing is left where it fails."""
        upload = SpooledUpload(workspace, (), 0, "", self._objects, asyncio.get_running_loop())
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
        return replace(upload, sha256=digest.hexdigest())

    async def _add_segment(self, upload: SpooledUpload, content: bytes) -> SpooledUpload:
        stored = await self._objects.put_bytes(upload.workspace, content)
        segments = (*upload.segments, stored.name)
        return replace(upload, segments=segments, size_bytes=upload.size_bytes + len(content))

    async def forget_spool(self, upload: Any) -> None:
        """Delete an upload."""
        await self._objects.delete(upload.workspace, upload.segments)

    async def write(self, workspace: str, make: MakeRows) -> Content:
        """Store rows as a table with its profile and digest; nothing is left where it fails."""
        table, profile = new_name(), new_name()
        encryption = await self._objects.table_encryption(workspace)
        try:
            content, measured = await self._work.run(
                lambda stop: self._write(workspace, (table, profile), make, encryption, stop)
            )
            message = profile_to_proto(measured).SerializeToString()
            await self._objects.put(workspace, _once(message), name=profile)
        except BaseException:
            await self._objects.delete(workspace, (table, profile))
            raise
        return content

    def _write(
        self, workspace: str, names: tuple[str, str], make: MakeRows, encryption: TableEncryption, stop: Stop
    ) -> tuple[Content, list[ColumnProfile]]:
        schema, batches = make(stop)
        seen = listed_schema(schema)
        digest, profile = TableDigest(schema), TableProfile(seen)
        valid = [0] * len(schema)
        rows = 0
        sink = _Counting(self._objects.table_writer(workspace, names[0]))
        properties = encryption.encryption_properties()
        with pq.ParquetWriter(sink, schema, compression="zstd", encryption_properties=properties) as writer:
            for group in _in_groups(stop.watched(batches)):
                for batch in group:
                    digest.update(batch)
                    profile.update(batch.select(seen.names))
                    valid = [
                        count + len(column) - column.null_count
                        for count, column in zip(valid, batch.columns, strict=True)
                    ]
                    rows += batch.num_rows
                writer.write_table(pa.Table.from_batches(group, schema))
            if rows == 0:
                raise InvalidArgument("no rows are left", reason="NO_ROWS")
        sink.commit()
        content = Content(*names, digest.hexdigest(), columns_of(schema, valid, rows), rows, sink.size_bytes)
        return content, profile.finish()

    async def open_table(self, version: DatasetVersion) -> EncryptedTable:
        """Open a version's rows."""
        encryption = await self._objects.table_encryption(version.workspace)
        fields = [pa.field(column.name, _arrow_type(column.arrow_type)) for column in version.content.columns]
        texts = [companion(column.name) for column in version.content.columns if column.keeps_texts]
        stored = [*fields, *(pa.field(name, pa.string()) for name in texts)]
        table = version.content.table
        return EncryptedTable(self._objects, encryption, version.workspace, table, pa.schema(fields), pa.schema(stored))

    async def profile(self, version: DatasetVersion) -> list[ColumnProfile]:
        """Return a version's profile."""
        content = await self._objects.get_bytes(version.workspace, version.content.profile)
        return profile_from_proto(data_pb2.DatasetProfile.FromString(content))

    async def remove(self, workspace: str, contents: Iterable[Content]) -> None:
        """Delete what was stored of some versions."""
        for content in contents:
            await self._objects.delete(workspace, (content.table, content.profile))


def _overlap(batch: pa.RecordBatch, start: int, first: int, end: int) -> pa.RecordBatch:
    """Return those rows of a batch, the first of which is row `start`, that lie from first to before end."""
    skipped = max(first - start, 0)
    return batch.slice(skipped, max(min(end - start, batch.num_rows) - skipped, 0))


def _in_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield batches by as many as make a row group; batches without rows are left out."""
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        group.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _arrow_type(name: str) -> pa.DataType:
    """Return the type that Arrow prints as a name."""
    if name.startswith("timestamp["):
        unit, _, zone = name[len("timestamp[") : -1].partition(", tz=")
        return pa.timestamp(unit, zone or None)
    if name == str(SERIES):
        return SERIES
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
    """A seekable file over an upload's segments, a few of them in memory at a time."""

    def __init__(self, upload: SpooledUpload, stop: Stop) -> None:
        self._upload = upload
        self._stop = stop
        self._position = 0
        self._held: OrderedDict[int, bytes] = OrderedDict()

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
        self._stop.check()
        index, start = divmod(self._position, _SEGMENT_BYTES)
        if index >= len(self._upload.segments):
            return 0
        piece = memoryview(self._segment(index))[start : start + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _segment(self, index: int) -> bytes:
        if index in self._held:
            self._held.move_to_end(index)
            return self._held[index]
        if len(self._held) >= _SEGMENTS_HELD:
            self._held.popitem(last=False)
        reading = self._upload.objects.get_bytes(self._upload.workspace, self._upload.segments[index])
        self._held[index] = asyncio.run_coroutine_threadsafe(reading, self._upload.loop).result()
        return self._held[index]


__all__ = ["EncryptedTable", "ObjectTableStore", "SpooledUpload"]
