"""The registry, as inference sees it: versions and their models."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc

from lepton.v1 import registry_pb2
from lepton.v1.registry_pb2_grpc import RegistryServiceStub
from servicekit.errors import DataLoss, FailedPrecondition
from servicekit.model_example import EXAMPLE_ARTIFACT, MOST_EXAMPLE_BYTES

_MODEL = "model.onnx"


@dataclass(frozen=True)
class ExtraFiles:
    """What a model needs in addition to its graph.

    Args:
        weights: the files that the graph reads weights from, by name. In memory alone: at rest they are encrypted.
        example: a request that came with the model; empty where none did.
    """

    weights: Mapping[str, bytes | bytearray] = field(default_factory=dict)
    example: bytes = b""


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

    async def extra_files(self, version: registry_pb2.Version) -> ExtraFiles:
        """Return the files of weights and the example of a version, checked against their digests.

        Raises:
            DataLoss: the bytes are others than the version names.
        """
        weights = {name: await self._content(version, name) for name in version.weight_files}
        has_example = any(
            item.name == EXAMPLE_ARTIFACT and item.size_bytes <= MOST_EXAMPLE_BYTES for item in version.artifacts
        )
        return ExtraFiles(weights, await self.artifact(version, EXAMPLE_ARTIFACT) if has_example else b"")

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
        return bytes(await self._content(version, name))

    async def _content(self, version: registry_pb2.Version, name: str) -> bytearray:
        request = registry_pb2.DownloadArtifactRequest(ref=f"{version.model}@{version.number}", name=name)
        # One buffer that grows: weights may take half of the memory, and joining pieces would take it twice.
        content, digest = bytearray(), hashlib.sha256()
        async for answer in self._stub.DownloadArtifact(request):
            content += answer.chunk
            digest.update(answer.chunk)
        declared = next((item.sha256 for item in version.artifacts if item.name == name), "")
        if digest.hexdigest() != declared:
            raise DataLoss(
                f"{name} of {version.model}@{version.number} does not have its digest", reason="DIGEST_MISMATCH"
            )
        return content
