"""The registry, as training sees it: versions to begin from, and where the new one goes."""

import hashlib
from collections.abc import AsyncIterator, Mapping

import grpc

from lepton.v1 import registry_pb2
from lepton.v1.registry_pb2_grpc import RegistryServiceStub

_CHUNK_BYTES = 1 << 20
_VERIFY_SECONDS = 300.0


class RegistryClient:
    """Reads and registers model versions.

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

    async def files(self, version: registry_pb2.Version) -> dict[str, bytes]:
        """Return every file of a version by name."""
        ref = f"{version.model}@{version.number}"
        return {artifact.name: await self._download(ref, artifact.name) for artifact in version.artifacts}

    async def register(
        self, request: registry_pb2.CreateVersionRequest, files: Mapping[str, bytes]
    ) -> registry_pb2.Version:
        """Create a version, upload its files and have it checked; return it as READY or FAILED.

        Raises:
            Aborted: the job was given to another worker.
        """
        for name, content in sorted(files.items()):
            sha256 = hashlib.sha256(content).hexdigest()
            request.artifacts.add(name=name, sha256=sha256, size_bytes=len(content))
        version = await self._stub.CreateVersion(request)
        if version.state != registry_pb2.VERSION_STATE_PENDING:
            return version
        ref = f"{version.model}@{version.number}"
        for name, content in sorted(files.items()):
            await self._stub.UploadArtifact(_upload(ref, name, content))
        return await self._stub.FinalizeVersion(
            registry_pb2.FinalizeVersionRequest(ref=ref, request_id=f"{request.request_id}-finalize"),
            timeout=_VERIFY_SECONDS,
        )

    async def _download(self, ref: str, name: str) -> bytes:
        request = registry_pb2.DownloadArtifactRequest(ref=ref, name=name)
        return b"".join([answer.chunk async for answer in self._stub.DownloadArtifact(request)])


async def _upload(ref: str, name: str, content: bytes) -> AsyncIterator[registry_pb2.UploadArtifactRequest]:
    yield registry_pb2.UploadArtifactRequest(header=registry_pb2.UploadArtifactHeader(ref=ref, name=name))
    for start in range(0, len(content), _CHUNK_BYTES):
        yield registry_pb2.UploadArtifactRequest(chunk=content[start : start + _CHUNK_BYTES])
