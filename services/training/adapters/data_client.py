"""The data service, as training sees it: versions and their rows."""

import contextlib
import io
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import grpc
import pyarrow as pa

from lepton.v1 import data_pb2
from lepton.v1.data_pb2_grpc import DataServiceStub
from services.training.domain.preflight import TableColumn, TableFacts

# Of a value in Arrow, bytes; other types take four at least.
_WIDTHS = {
    "double": 8.0,
    "int64": 8.0,
    "bool": 0.125,
    "int8": 1.0,
    "uint8": 1.0,
    "int16": 2.0,
    "uint16": 2.0,
    "null": 0.0,
}


class DataClient:
    """Reads dataset versions.

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

    async def facts(self, version: data_pb2.DatasetVersion) -> TableFacts:
        """Return what is known of a version without reading its rows."""
        ref = f"{version.dataset}@{version.number}"
        profile: data_pb2.DatasetProfile = await self._stub.GetDatasetProfile(
            data_pb2.GetDatasetProfileRequest(ref=ref)
        )
        found = {column.name: column for column in profile.columns}
        columns = [_table_column(column.name, column.arrow_type, found.get(column.name)) for column in version.columns]
        return TableFacts(ref, version.rows, columns)

    async def read(self, ref: str, most_bytes: int = 0, types: Mapping[str, str] | None = None) -> pa.Table | None:
        """Return a version's rows; None where they are more than so many bytes of Arrow, 0 for any.

        Args:
            ref: the version.
            most_bytes: that are read.
            types: Arrow type name by column that is read otherwise than it is stored.

        Raises:
            InvalidArgument: a value does not fit its type.
        """
        chunks = Chunks()
        size = 0
        async with contextlib.aclosing(self.chunks(ref, types=types)) as answers:
            async for chunk in answers:
                size += len(chunk)
                if most_bytes and size > most_bytes:
                    return None
                chunks.add(chunk)
        # Arrow takes a short read for the end of the file, and a batch's columns are longer than a chunk.
        with pa.ipc.open_stream(pa.PythonFile(io.BufferedReader(chunks), mode="r")) as reader:
            return reader.read_all()

    async def chunks(
        self, ref: str, first_row: int = 0, most_rows: int = 0, types: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield a version's rows from one on as the pieces of an Arrow stream; 0 most rows for all that follow."""
        request = data_pb2.ReadDatasetRequest(ref=ref, first_row=first_row, most_rows=most_rows, types=types)
        async with contextlib.aclosing(self._stub.ReadDataset(request)) as answers:
            async for answer in answers:
                yield answer.arrow


def _table_column(name: str, arrow_type: str, profile: data_pb2.ColumnProfile | None) -> TableColumn:
    # Versions of before have no profile of some columns: what is not known is not held against them.
    if profile is None:
        return TableColumn(name, arrow_type, 0, 0, {})
    top = {item.value: item.count for item in profile.top}
    return TableColumn(name, arrow_type, profile.missing, profile.distinct, top)


def least_bytes(version: data_pb2.DatasetVersion) -> int:
    """Return how many bytes of Arrow a version's rows take at least: what numbers take, and where texts end."""
    return int(version.rows * sum(_WIDTHS.get(column.arrow_type, 4.0) for column in version.columns))


class Chunks(io.RawIOBase):
    """A file of chunks, each let go once it was read: the rows are never held twice."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: deque[memoryview] = deque()

    def add(self, chunk: bytes) -> None:
        """Put more at the end."""
        if chunk:
            self._chunks.append(memoryview(chunk))

    @property
    def held_bytes(self) -> int:
        """What was not read yet."""
        return sum(map(len, self._chunks))

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes from the front; 0 at the end."""
        if not self._chunks:
            return 0
        front = self._chunks[0]
        count = min(len(buffer), len(front))
        buffer[:count] = front[:count]
        if count == len(front):
            self._chunks.popleft()
        else:
            self._chunks[0] = front[count:]
        return count
