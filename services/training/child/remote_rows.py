"""A table of the data service as the fit's source of rows: read in the fit's thread, while the event loop fetches."""

import asyncio
import contextlib
import io
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import structlog

from servicekit.errors import Unavailable
from services.training.adapters.data_client import DataClient

_log = structlog.get_logger(__name__)

# Chunks of 1 MiB that wait for the fit: enough that it seldom waits for them.
_CHUNKS_AHEAD = 4
_WAIT_SECONDS = 1.0
_TELL_SECONDS = 1.0


class RemoteRows:
    """A dataset version's rows, streamed; no more of them is held than a few chunks and one batch.

    A stream that breaks goes on at the next row once the data service is back.

    Args:
        data: the data service.
        ref: the version.
        num_rows: of it.
        patience_seconds: how long the data service may be away.
        check: raises where the job is to stop; asked while nothing comes.
        tell: called from time to time while rows come.
        types: Arrow type name by column that is read otherwise than it is stored.
    """

    def __init__(
        self,
        data: DataClient,
        ref: str,
        num_rows: int,
        patience_seconds: float,
        check: Callable[[], None],
        tell: Callable[[], None],
        types: Mapping[str, str] | None = None,
    ) -> None:
        self._data = data
        self._types = types
        self._ref = ref
        self.num_rows = num_rows
        self._patience_seconds = patience_seconds
        self._check = check
        self._tell = tell
        self._told = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self.rows_read = 0

    @property
    def passes(self) -> float:
        """How often the whole was read so far, in rows."""
        return self.rows_read / max(self.num_rows, 1)

    def batches(self, first_row: int = 0, most_rows: int = 0) -> Iterator[pa.RecordBatch]:
        """Read from a row on, in order; 0 most rows for all that follow. For a thread that is not the event loop's.

        Raises:
            Unavailable: the data service was away for too long.
        """
        end = min(first_row + most_rows, self.num_rows) if most_rows else self.num_rows
        gives_up = time.monotonic() + self._patience_seconds
        while first_row < end:
            try:
                for batch in self._stream(first_row, end - first_row):
                    first_row += batch.num_rows
                    gives_up = time.monotonic() + self._patience_seconds
                    self._count(batch.num_rows)
                    yield batch
            except Unavailable as error:
                if time.monotonic() > gives_up:
                    raise
                _log.info("rows wait", reason=error.reason, error=error.message, row=first_row)
                self._check()
                time.sleep(_WAIT_SECONDS)

    def _stream(self, first_row: int, rows: int) -> Iterator[pa.RecordBatch]:
        with contextlib.closing(_Incoming(self._data, self._ref, first_row, rows, self._loop, self._types)) as chunks:
            # Arrow takes a short read for the end of the file, and a batch's columns are longer than a chunk.
            with pa.ipc.open_stream(pa.PythonFile(io.BufferedReader(chunks), mode="r")) as reader:
                yield from reader

    def _count(self, rows: int) -> None:
        self.rows_read += rows
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            self._tell()


class _Incoming(io.RawIOBase):
    """A file whose bytes come from the data service while it is read; a few chunks ahead, and then it waits."""

    def __init__(
        self,
        data: DataClient,
        ref: str,
        first_row: int,
        rows: int,
        loop: asyncio.AbstractEventLoop,
        types: Mapping[str, str] | None,
    ) -> None:
        super().__init__()
        self._chunks: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
        self._loop = loop
        self._room = asyncio.Semaphore(_CHUNKS_AHEAD)
        self._front = memoryview(b"")
        self._is_over = False
        self._fetching = asyncio.run_coroutine_threadsafe(self._fetch(data, ref, first_row, rows, types), loop)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._front and not self._is_over:
            self._front = memoryview(self._next())
        count = min(len(buffer), len(self._front))
        buffer[:count] = self._front[:count]
        self._front = self._front[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._fetching.cancel()
        super().close()

    def _next(self) -> bytes:
        chunk = self._chunks.get()
        if isinstance(chunk, Exception):
            raise chunk
        self._is_over = not chunk
        self._loop.call_soon_threadsafe(self._room.release)
        return chunk

    async def _fetch(
        self, data: DataClient, ref: str, first_row: int, rows: int, types: Mapping[str, str] | None
    ) -> None:
        end: bytes | Exception = b""
        try:
            async with contextlib.aclosing(data.chunks(ref, first_row, rows, types)) as chunks:
                async for chunk in chunks:
                    await self._room.acquire()
                    if chunk:
                        self._chunks.put(chunk)
        except Exception as error:
            # For the fit to deal with: here nobody would hear it.
            end = error
        finally:
            # Whatever ends it: nobody waits for ever.
            self._chunks.put(end)
