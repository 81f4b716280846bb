"""The registry, as inference sees it: versions and their models."""

import hashlib
from collections.abc import Mapping

import grpc

from lepton.v1 import registry_pb2
from lepton.v1.registry_pb2_grpc import RegistryServiceStub
from servicekit.errors import DataLoss, FailedPrecondition

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
        return await self.artifact(version, _MODEL)

    async def files(self, version: registry_pb2.Version, limits: Mapping[str, int]) -> dict[str, bytes]:
        """Return some of a version's files by name, those that it has.

        Args:
            version: whose.
            limits: the most bytes of each file that is wanted, by its name.

        Raises:
            FailedPrecondition: a file is larger.
            DataLoss: the bytes are others than the version names.
        """
        wanted = [item for item in version.artifacts if item.name in limits]
        for item in wanted:
            if item.size_bytes > limits[item.name]:
                raise FailedPrecondition(
                    f"{item.name} has {item.size_bytes:,} bytes, at most {limits[item.name]:,} are read",
                    reason="PREPROCESSING_UNREADABLE",
                )
        return {item.name: await self.artifact(version, item.name) for item in wanted}

    async def artifact(self, version: registry_pb2.Version, name: str) -> bytes:
        """Return a version's file, checked against its digest.

        Raises:
            DataLoss: the bytes are others than the version names.
        """
        request = registry_pb2.DownloadArtifactRequest(ref=f"{version.model}@{version.number}", name=name)
        content = b"".join([answer.chunk async for answer in self._stub.DownloadArtifact(request)])
        declared = next((item.sha256 for item in version.artifacts if item.name == name), "")
        if hashlib.sha256(content).hexdigest() != declared:
            raise DataLoss(
                f"{name} of {version.model}@{version.number} does not have its digest", reason="DIGEST_MISMATCH"
            )
        return content
