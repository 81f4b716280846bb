"""The data service, as an inference worker sees it: evaluation rows, passed on unread."""

from collections.abc import AsyncGenerator, Sequence

import grpc

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

    async def read(self, ref: str, columns: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """Yield the chunks of some columns as an Arrow stream."""
        async for answer in self._stub.ReadDataset(data_pb2.ReadDatasetRequest(ref=ref, columns=columns)):
            yield answer.arrow
