"""The data service, as an inference worker sees it: rows stream in, and out into new versions, as the caller."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Self

import grpc
import pyarrow as pa
import pyarrow.parquet as pq

from lepton.v1 import data_pb2
from lepton.v1.data_pb2_grpc import DataServiceStub
from servicekit.errors import DataLoss

_CHUNK_BYTES = 1 << 20
# Chunks that wait for the data service: enough that neither side waits for the other's every step.
_CHUNKS_AHEAD = 4
# A batch of the data service takes some 16 MiB; what grows far beyond is no stream of batches.
_MOST_HELD_BYTES = 512 << 20
# How an IPC stream ends: a continuation and a length of zero.
_END_MARK = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class DataClient:
    """Reads and writes dataset versions.

    Args:
        channel: a channel of servicekit.rpc to the data service.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        # Its calls are those of servicekit's channel: coroutines and async generators.
        self._stub: Any = DataServiceStub(channel)

    async def version(self, ref: str) -> data_pb2.DatasetVersion:
        """Return a version.

        Raises:
            NotFound: there is none.
        """
        request = data_pb2.GetDatasetVersionRequest(ref=ref)
        version: data_pb2.DatasetVersion = await self._stub.GetDatasetVersion(request)
        return version

    async def read(
        self, ref: str, columns: Sequence[str], types: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the chunks of some columns as an Arrow stream, unread; some of them as other Arrow types."""
        answers = self._stub.ReadDataset(data_pb2.ReadDatasetRequest(ref=ref, columns=columns, types=types))
        async with contextlib.aclosing(answers):
            async for answer in answers:
                yield answer.arrow

    async def batches(
        self, ref: str, columns: Sequence[str], types: Mapping[str, str] | None = None
    ) -> AsyncGenerator[pa.RecordBatch, None]:
        """Yield a version's rows, some columns of them, as they come; no more is read than is asked for."""
        stream = IpcStream()
        async with contextlib.aclosing(self.read(ref, columns, types)) as chunks:
            async for chunk in chunks:
                for batch in stream.feed(chunk):
                    yield batch
        stream.finish()

    def writing(self, header: data_pb2.ImportHeader) -> "DatasetWriter":
        """Return what writes a new version; its header's format must be Parquet."""
        return DatasetWriter(self._stub, header)


class IpcStream:
    """An Arrow IPC stream that comes in pieces, whose batches are given as soon as they are whole."""

    def __init__(self) -> None:
        self._held = b""
        self._schema: pa.Schema | None = None

    def feed(self, piece: bytes) -> Iterator[pa.RecordBatch]:
        """Yield the batches that a further piece completes.

        Raises:
            DataLoss: the bytes are no stream of batches.
        """
        self._held += piece
        if len(self._held) > _MOST_HELD_BYTES:
            raise DataLoss("the data service sent no readable Arrow stream", reason="BAD_STREAM")
        reader = pa.BufferReader(self._held)
        used = 0
        while (message := _next_message(reader)) is not None:
            used = reader.tell()
            if self._schema is None:
                self._schema = pa.ipc.read_schema(message)
            else:
                yield pa.ipc.read_record_batch(message, self._schema)
        self._held = self._held[used:]

    def finish(self) -> None:
        """Check that nothing lacks.

        Raises:
            DataLoss: the stream was cut off.
        """
        if self._schema is None or self._held != _END_MARK:
            raise DataLoss("the data service's stream was cut off: try again", reason="BAD_STREAM")


class DatasetWriter:
    """Writes a new version batch by batch while it is open. Leaving it unfinished leaves no version.

    Args:
        stub: the data service's.
        header: of the import.
    """

    def __init__(self, stub: Any, header: data_pb2.ImportHeader) -> None:
        self._stub = stub
        self._header = header
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_CHUNKS_AHEAD)
        self._sha256 = hashlib.sha256()
        self._sink = _Sink()
        self._parquet: pq.ParquetWriter | None = None
        self._call: asyncio.Task[data_pb2.ImportDatasetResponse] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._call is not None:
            self._call.cancel()
            await asyncio.gather(self._call, return_exceptions=True)

    async def write(self, batch: pa.RecordBatch) -> None:
        """Add rows; waits where the data service is slower.

        Raises:
            LeptonError: the data service refused the rows before.
        """
        await asyncio.to_thread(self._encode, batch)
        await self._send()

    async def finish(self) -> data_pb2.DatasetVersion:
        """Return the new version, or the one that held the same rows already.

        Raises:
            LeptonError: the data service refused the rows.
        """
        await asyncio.to_thread(self._close)
        await self._send()
        await self._put(None)
        assert self._call is not None
        return (await self._call).version

    def _encode(self, batch: pa.RecordBatch) -> None:
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._sink, batch.schema, compression="zstd")
        self._parquet.write_batch(batch)

    def _close(self) -> None:
        if self._parquet is not None:
            self._parquet.close()

    async def _send(self) -> None:
        content = self._sink.take()
        self._sha256.update(content)
        for start in range(0, len(content), _CHUNK_BYTES):
            await self._put(content[start : start + _CHUNK_BYTES])

    async def _put(self, chunk: bytes | None) -> None:
        if self._call is None:
            self._call = asyncio.create_task(self._import())
        putting = asyncio.ensure_future(self._waiting.put(chunk))
        try:
            # A data service that refuses takes no more chunks.
            await asyncio.wait((putting, self._call), return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if self._call.done():
            self._call.result()

    async def _import(self) -> data_pb2.ImportDatasetResponse:
        answer: data_pb2.ImportDatasetResponse = await self._stub.ImportDataset(self._messages())
        return answer

    async def _messages(self) -> AsyncIterator[data_pb2.ImportDatasetRequest]:
        yield data_pb2.ImportDatasetRequest(header=self._header)
        while (chunk := await self._waiting.get()) is not None:
            yield data_pb2.ImportDatasetRequest(chunk=chunk)
        yield data_pb2.ImportDatasetRequest(end=data_pb2.ImportEnd(sha256=self._sha256.hexdigest()))


class _Sink:
    """What Parquet is written to, taken away as it grows."""

    closed = False

    def __init__(self) -> None:
        self._content = bytearray()
        self._position = 0

    def write(self, data: bytes) -> int:
        self._content += memoryview(data)
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing waits."""

    def take(self) -> bytes:
        content = bytes(self._content)
        self._content.clear()
        return content


def _next_message(reader: pa.BufferReader) -> pa.Message | None:
    """Return the next message; None where it is not whole yet."""
    try:
        return pa.ipc.read_message(reader)
    except (EOFError, OSError, pa.ArrowInvalid):
        return None
