"""Reports as encrypted objects: their slices hold values of customers' rows."""

import hashlib

import structlog

from servicekit.errors import DataLoss, LeptonError
from servicekit.objects import Objects, StoredObject
from services.training.domain.jobs import Job

_log = structlog.get_logger(__name__)


class ReportStore:
    """Where reports lie.

    Args:
        objects: the training service's.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def put(self, workspace: str, content: bytes) -> StoredObject:
        """Store a report whole, or not at all.

        Raises:
            ResourceExhausted: the disk is full.
        """
        return await self._objects.put_bytes(workspace, content)

    async def get(self, job: Job) -> bytes:
        """Return a job's report.

        Raises:
            DataLoss: it is gone, or was damaged.
        """
        content = await self._objects.get_bytes(job.workspace, job.report_object)
        if hashlib.sha256(content).hexdigest() != job.report_sha256:
            raise DataLoss(f"the report of {job.name} does not have its digest", reason="DIGEST_MISMATCH")
        return content

    async def remove(self, workspace: str, name: str) -> None:
        """Delete one; with the store away it is left to the next sweep."""
        try:
            await self._objects.delete(workspace, [name])
        except LeptonError as error:
            _log.info("report not deleted yet", why=error.message)
