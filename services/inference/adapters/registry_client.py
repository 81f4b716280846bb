"""The registry, as inference sees it: versions and their models."""

import hashlib

import grpc

from lepton.v1 import registry_pb2
from lepton.v1.registry_pb2_grpc import RegistryServiceStub
from servicekit.errors import DataLoss

_MODEL = "model.onnx"


class RegistryClient:
    """Reads model versions.

    Args:
        channel: a channel of servicekit.rpc to the registry.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = RegistryServiceStub(channel)

    async def version(self, ref: str) -> registry_pb2.Version:
        """Return a version.

        Raises:
            NotFound: there is none.
        """
        return await self._stub.GetVersion(registry_pb2.GetVersionRequest(ref=ref))

    async def model(self, version: registry_pb2.Version) -> bytes:
        """Return a version's ONNX file, checked against its digest.

        Raises:
            DataLoss: the bytes are others than the version names.
        """
        request = registry_pb2.DownloadArtifactRequest(ref=f"{version.model}@{version.number}", name=_MODEL)
        content = b"".join([answer.chunk async for answer in self._stub.DownloadArtifact(request)])
        declared = next((item.sha256 for item in version.artifacts if item.name == _MODEL), "")
        if hashlib.sha256(content).hexdigest() != declared:
            raise DataLoss(f"{version.model}@{version.number} does not have its digest", reason="DIGEST_MISMATCH")
        return content
