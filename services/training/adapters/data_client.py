"""The data service, as training sees it: versions and their rows."""

import io
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pyarrow as pa

from lepton.v1 import data_pb2
from lepton.v1.data_pb2_grpc import DataServiceStub


class DataClient:
    """Reads dataset versions.

    Args:
        channel: a channel of servicekit.rpc to the data service.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = DataServiceStub(channel)

    async def version(self, ref: str) -> data_pb2.DatasetVersion:
        """Return a version.

        Raises:
            NotFound: there is none.
        """
        return await self._stub.GetDatasetVersion(data_pb2.GetDatasetVersionRequest(ref=ref))

    async def read(self, ref: str) -> pa.Table:
        """Return a version's rows."""
        chunks = Chunks()
        async for chunk in self.chunks(ref):
            chunks.add(chunk)
        # Arrow takes a short read for the end of the file, and a batch's columns are longer than a chunk.
        with pa.ipc.open_stream(pa.PythonFile(io.BufferedReader(chunks), mode="r")) as reader:
            return reader.read_all()

    async def chunks(self, ref: str) -> AsyncIterator[bytes]:
        """Yield a version's rows as the bytes of an Arrow stream."""
        async for answer in self._stub.ReadDataset(data_pb2.ReadDatasetRequest(ref=ref)):
            yield answer.arrow


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
