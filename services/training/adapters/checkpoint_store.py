"""Checkpoints as encrypted objects, checked against their digests both ways."""

import hashlib
from collections.abc import AsyncIterator

import structlog

from servicekit.errors import DataLoss, InvalidArgument, LeptonError
from servicekit.objects import Objects, StoredObject
from services.training.domain.jobs import Job

_log = structlog.get_logger(__name__)


class CheckpointStore:
    """Where checkpoints lie.

    Args:
        objects: the training service's.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def put(self, workspace: str, sha256: str, chunks: AsyncIterator[bytes]) -> StoredObject:
        """Store a checkpoint whole, or not at all.

        Raises:
            InvalidArgument: its bytes do not have the digest.
            ResourceExhausted: the disk is full.
        """
        stored = await self._objects.put(workspace, chunks)
        if stored.sha256 != sha256:
            await self.remove(workspace, stored.name)
            raise InvalidArgument("the checkpoint did not come whole: send it again", reason="DIGEST_MISMATCH")
        return stored

    async def get(self, job: Job) -> AsyncIterator[bytes]:
        """Yield the bytes of a job's checkpoint; the last piece comes only if the whole has its digest.

        Raises:
            DataLoss: it is gone, or was damaged.
        """
        digest, held = hashlib.sha256(), b""
        async for chunk in self._objects.get(job.workspace, job.checkpoint_object):
            if held:
                yield held
            digest.update(chunk)
            held = chunk
        if digest.hexdigest() != job.checkpoint_sha256:
            raise DataLoss(f"the checkpoint of {job.name} does not have its digest", reason="DIGEST_MISMATCH")
        yield held

    async def remove(self, workspace: str, name: str) -> None:
        """Delete one; with the store away it is left to the next sweep."""
        try:
            await self._objects.delete(workspace, [name])
        except LeptonError as error:
            _log.info("checkpoint not deleted yet", why=error.message)
