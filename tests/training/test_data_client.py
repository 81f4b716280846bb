"""Rows come from the data service in chunks, and are never held twice."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from servicekit.auth import Identity, act_as
from servicekit.rpc import open_channel
from services.training.adapters.data_client import Chunks, DataClient
from tests.training.house import House


@given(st.lists(st.binary(max_size=9), max_size=9), st.integers(1, 7))
def test_chunks_read_as_one_file_and_are_let_go(chunks: list[bytes], size: int) -> None:
    file = Chunks()
    for chunk in chunks:
        file.add(chunk)
    pieces = []
    while piece := file.read(size):
        pieces.append(piece)
    assert b"".join(pieces) == b"".join(chunks)
    assert file.held_bytes == 0


async def test_rows_come_as_they_were_imported(house: House) -> None:
    # Each column of a batch reaches over several of the chunks that it comes in.
    count = 400_000
    await house.import_table("many", {"x": range(count), "t": [f"row {index}" for index in range(count)]})
    async with open_channel(f"localhost:{house.data_port}", house.process_settings("training")) as channel:
        with act_as(Identity.for_service("default", "training")):
            table = await DataClient(channel).read("many@1")
    assert table is not None
    assert table.num_rows == count
    assert table.column("x").to_pylist()[-1] == count - 1
    assert pa.types.is_string(table.schema.field("t").type) or pa.types.is_large_string(table.schema.field("t").type)
