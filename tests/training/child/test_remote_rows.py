"""Rows stream into a fit's thread; a connection that breaks costs no row and repeats none."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pyarrow as pa
import pytest

from servicekit.auth import Identity, act_as
from servicekit.errors import Unavailable
from servicekit.rpc import open_channel
from services.training.adapters.data_client import DataClient, least_bytes
from services.training.child.remote_rows import RemoteRows
from tests.training.house import House, free_port
from tests.training.worker.test_streaming import parquet

ROWS = 400_000


@contextlib.asynccontextmanager
async def _breaking(port: int, after_bytes: int) -> AsyncIterator[int]:
    """Pass connections on to a port, breaking the first one after so many bytes of answers."""
    left = [after_bytes]

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: list[int]) -> None:
        with contextlib.suppress(ConnectionError):
            while budget[0] > 0 and (content := await reader.read(1 << 16)):
                budget[0] -= len(content)
                writer.write(content)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget, left[0] = [left[0]], 1 << 60
        inner_reader, inner_writer = await asyncio.open_connection("localhost", port)
        await asyncio.gather(copy(reader, inner_writer, [1 << 60]), copy(inner_reader, writer, budget))

    async with await asyncio.start_server(connected, "localhost") as server:
        yield server.sockets[0].getsockname()[1]


def _rows(data: DataClient, patience_seconds: float = 30.0) -> RemoteRows:
    return RemoteRows(data, "many@1", ROWS, patience_seconds, lambda: None, lambda: None)


async def test_stream_that_breaks_goes_on_at_the_next_row(house: House) -> None:
    table = pa.table({"x": range(ROWS), "t": ["some text"] * ROWS})
    await house.import_parquet("many", parquet(table))
    async with (
        _breaking(house.data_port, 3 << 20) as port,
        open_channel(f"localhost:{port}", house.process_settings("training")) as channel,
    ):
        with act_as(Identity.for_service("default", "training")):
            data = DataClient(channel)
            rows = _rows(data)
            found = await asyncio.to_thread(lambda: pa.Table.from_batches(rows.batches()))
            part = await asyncio.to_thread(lambda: pa.Table.from_batches(rows.batches(70_000, 100_000)))
            assert found.column("x").to_pylist() == list(range(ROWS))
            assert part.column("x").to_pylist() == list(range(70_000, 170_000))
            assert rows.passes == 1.25
            # Who has enough leaves nothing behind: the next reading begins where it is asked to.
            first = await asyncio.to_thread(lambda: next(rows.batches(5, 10)).column(0).to_pylist())
            assert first == list(range(5, 15))
            version = await data.version("many@1")
            assert ROWS * 8 <= least_bytes(version) <= table.nbytes
            assert await data.read("many@1", 1 << 20) is None


async def test_data_service_that_stays_away_is_told_in_the_end(house: House) -> None:
    async with open_channel(f"localhost:{free_port()}", house.process_settings("training")) as channel:
        with act_as(Identity.for_service("default", "training")):
            rows = _rows(DataClient(channel), 0.5)
            with pytest.raises(Unavailable):
                await asyncio.to_thread(lambda: list(rows.batches()))
