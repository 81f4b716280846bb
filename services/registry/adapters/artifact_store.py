"""Artifacts as encrypted objects, checked against their digests both ways."""

import hashlib
from collections.abc import AsyncIterator

from servicekit.errors import DataLoss, InvalidArgument
from servicekit.objects import Objects
from services.registry.domain.versions import Artifact


class ObjectArtifactStore:
    """The artifact store port on encrypted objects.

    Args:
        objects: the registry's.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def put(self, workspace: str, artifact: Artifact, chunks: AsyncIterator[bytes]) -> str:
        """Store an artifact's bytes if they are what was declared; return the object's name.

        Raises:
            InvalidArgument: they are others.
        """
        stored = await self._objects.put(workspace, _bounded(chunks, artifact))
        if (stored.sha256, stored.size_bytes) != (artifact.sha256, artifact.size_bytes):
            await self._objects.delete(workspace, [stored.name])
            raise InvalidArgument(
                f"artifact {artifact.name!r} is {stored.size_bytes:,} bytes with SHA-256 {stored.sha256}, declared "
                f"were {artifact.size_bytes:,} bytes with {artifact.sha256}: upload it again",
                reason="DIGEST_MISMATCH",
            )
        return stored.name

    async def get(self, workspace: str, artifact: Artifact) -> AsyncIterator[bytes]:
        """Yield an artifact's bytes; the last piece comes only if the whole has its digest.

        Raises:
            DataLoss: the stored bytes were damaged.
        """
        digest = hashlib.sha256()
        held = b""
        async for chunk in self._objects.get(workspace, artifact.object_name):
            if held:
                yield held
            digest.update(chunk)
            held = chunk
        if digest.hexdigest() != artifact.sha256:
            raise DataLoss(f"stored artifact {artifact.name!r} does not have its digest", reason="DIGEST_MISMATCH")
        yield held

    async def remove(self, workspace: str, object_names: list[str]) -> None:
        """Delete what was stored."""
        await self._objects.delete(workspace, object_names)


async def _bounded(chunks: AsyncIterator[bytes], artifact: Artifact) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > artifact.size_bytes:
            raise InvalidArgument(
                f"artifact {artifact.name!r} is longer than the {artifact.size_bytes:,} bytes declared",
                reason="DIGEST_MISMATCH",
            )
        yield chunk
