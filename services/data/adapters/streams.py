"""The streams of the contract: an upload coming in, Arrow IPC going out."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Self

import pyarrow as pa

from lepton.v1 import data_pb2 as pb
from servicekit.errors import InvalidArgument, ResourceExhausted
from services.data.ports import ReadableTable

_CHUNK_BYTES = 1 << 20


class ImportStream:
    """An ImportDataset request stream: one header, chunks, one end.

    Args:
        header: the first message.
        requests: the rest.
    """

    def __init__(self, header: pb.ImportHeader, requests: AsyncIterator[pb.ImportDatasetRequest]) -> None:
        self.header = header
        self._requests = requests
        self._end: pb.ImportEnd | None = None

    @classmethod
    async def begin(cls, requests: AsyncIterator[pb.ImportDatasetRequest]) -> Self:
        """Read the header.

        Raises:
            InvalidArgument: the first message is no header.
        """
        async for request in requests:
            if request.HasField("header"):
                return cls(request.header, requests)
            break
        raise InvalidArgument("an import begins with a header", reason="BAD_STREAM")

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes.

        Raises:
            InvalidArgument: a message is out of order.
        """
        async for request in self._requests:
            if self._end is not None or request.HasField("header"):
                raise InvalidArgument("an import is one header, chunks, one end, in this order", reason="BAD_STREAM")
            if request.HasField("end"):
                self._end = request.end
            else:
                yield request.chunk

    def sha256(self) -> str:
        """Return the digest that the client gave at the end.

        Raises:
            InvalidArgument: the stream ended without.
        """
        if self._end is None:
            raise InvalidArgument(
                "the upload was cut off before its end: nothing was imported; send it again", reason="TRUNCATED_UPLOAD"
            )
        return self._end.sha256

    def claim(self) -> pb.ImportHeader:
        """Return what a repeat of the request_id must equal: the header, and the bytes by their digest."""
        claim = pb.ImportHeader()
        claim.CopyFrom(self.header)
        claim.source = f"{self.header.source}\0{self.sha256()}"
        return claim


class ArrowChunks:
    """A table as the chunks of one Arrow IPC stream, made in a thread while they are sent.

    Args:
        table: the rows.
        columns: which to send; None for all.
        first_row: where to begin.
        most_rows: to send; 0 for all that follow.
    """

    def __init__(self, table: ReadableTable, columns: list[str] | None, first_row: int = 0, most_rows: int = 0) -> None:
        self._table = table
        self._columns = columns
        self._first_row = first_row
        self._most_rows = most_rows

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._chunks()
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield chunk

    def _chunks(self) -> Iterator[bytes]:
        schema = self._table.schema
        if self._columns is not None:
            schema = pa.schema([schema.field(name) for name in self._columns])
        sink = _Buffer()
        with pa.ipc.new_stream(sink, schema) as writer:
            for batch in self._table.batches(self._columns, self._first_row, self._most_rows):
                writer.write_batch(batch)
                while len(sink.content) >= _CHUNK_BYTES:
                    yield sink.take()
        while sink.content:
            yield sink.take()


def arrow_bytes(rows: pa.Table, most_bytes: int) -> bytes:
    """Return rows as one whole Arrow IPC stream.

    Raises:
        ResourceExhausted: it is too large for one message.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    content = sink.getvalue()
    if content.size > most_bytes:
        raise ResourceExhausted(
            f"{rows.num_rows:,} rows take {content.size:,} bytes, more than the {most_bytes:,} of one message: "
            "ask for fewer, or read the dataset as a stream",
            reason="PREVIEW_TOO_LARGE",
        )
    return bytes(content.to_pybytes())


class _Buffer:
    """What Arrow writes to."""

    closed = False

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, data: bytes) -> int:
        self.content += memoryview(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def take(self) -> bytes:
        taken = bytes(self.content[:_CHUNK_BYTES])
        del self.content[:_CHUNK_BYTES]
        return taken
