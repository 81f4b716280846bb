"""The registry, as training sees it: versions to begin from, and where the new one goes."""

import hashlib
from collections.abc import AsyncIterator, Mapping

import grpc

from lepton.v1 import registry_pb2
from lepton.v1.registry_pb2_grpc import RegistryServiceStub
from servicekit.errors import DataLoss

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
        """Return every file of a version by name, checked against its digest.

        Raises:
            DataLoss: a file came damaged.
        """
        ref = f"{version.model}@{version.number}"
        return {artifact.name: await self._download(ref, artifact) for artifact in version.artifacts}

    async def create(
        self, request: registry_pb2.CreateVersionRequest, files: Mapping[str, bytes]
    ) -> registry_pb2.Version:
        """Take a number for a version of some files; a job that made one gets that, READY.

        Raises:
            Aborted: the job was given to another worker.
        """
        declared = registry_pb2.CreateVersionRequest()
        declared.CopyFrom(request)
        for name, content in sorted(files.items()):
            declared.artifacts.add(name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        return await self._stub.CreateVersion(declared)

    async def upload(self, version: registry_pb2.Version, name: str, content: bytes) -> None:
        """Bring a file of a version; a repeat replaces it."""
        await self._stub.UploadArtifact(_upload(f"{version.model}@{version.number}", name, content))

    async def finalize(self, version: registry_pb2.Version, request_id: str) -> registry_pb2.Version:
        """Have a version checked; return it as READY or FAILED."""
        ref = f"{version.model}@{version.number}"
        request = registry_pb2.FinalizeVersionRequest(ref=ref, request_id=request_id)
        return await self._stub.FinalizeVersion(request, timeout=_VERIFY_SECONDS)

    async def _download(self, ref: str, artifact: registry_pb2.Artifact) -> bytes:
        request = registry_pb2.DownloadArtifactRequest(ref=ref, name=artifact.name)
        content = b"".join([answer.chunk async for answer in self._stub.DownloadArtifact(request)])
        if hashlib.sha256(content).hexdigest() != artifact.sha256:
            raise DataLoss(f"{artifact.name} of {ref} did not come as it was registered", reason="ARTIFACT_DAMAGED")
        return content


async def _upload(ref: str, name: str, content: bytes) -> AsyncIterator[registry_pb2.UploadArtifactRequest]:
    yield registry_pb2.UploadArtifactRequest(header=registry_pb2.UploadArtifactHeader(ref=ref, name=name))
    for start in range(0, len(content), _CHUNK_BYTES):
        yield registry_pb2.UploadArtifactRequest(chunk=content[start : start + _CHUNK_BYTES])
