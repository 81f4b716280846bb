"""Assignments in the NATS KV bucket `placements`: compare-and-set, and never over those of a later leader."""

from nats.js.errors import KeyDeletedError, KeyNotFoundError, KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from lepton.v1 import scheduler_pb2
from servicekit.errors import Aborted, LeptonError, Unavailable
from servicekit.events import Nats
from services.scheduler.convert import assignment_to_proto
from services.scheduler.domain.assignment import Assignment

BUCKET = "placements"


def key_of(worker: str) -> str:
    """Return the key of a worker's assignment."""
    return f"worker.{worker}"


class PlacementsBucket:
    """Writes assignments, each only where it differs from what is there.

    Args:
        nats: the connection; while it is away, writing is Unavailable.
    """

    def __init__(self, nats: Nats) -> None:
        self._nats = nats
        self._bucket: KeyValue | None = None
        self._written: dict[str, tuple[int, bytes]] = {}

    def forget(self) -> None:
        """Assume nothing of what was written: read before the next write."""
        self._bucket = None
        self._written.clear()

    async def write(self, assignment: Assignment) -> None:
        """Make an assignment the worker's latest.

        Raises:
            Aborted: one with a higher leader epoch is there.
            Unavailable: NATS does not answer.
        """
        value = assignment_to_proto(assignment).SerializeToString(deterministic=True)
        try:
            bucket = await self._open()
            if assignment.worker not in self._written:
                self._written[assignment.worker] = await self._read(bucket, assignment)
            if self._written[assignment.worker][1] != value:
                await self._update(bucket, assignment, value)
        except LeptonError:
            raise
        except Exception as error:
            # Whatever went wrong, the next try begins with a look.
            self.forget()
            raise Unavailable("assignments cannot be written to NATS now", reason="NATS_AWAY") from error

    async def remove(self, worker: str) -> None:
        """Remove a worker's assignment, if there is one."""
        try:
            bucket = await self._open()
            self._written.pop(worker, None)
            await bucket.delete(key_of(worker))
        except Exception as error:
            self.forget()
            raise Unavailable("assignments cannot be removed from NATS now", reason="NATS_AWAY") from error

    async def _open(self) -> KeyValue:
        if not self._nats.is_connected:
            raise Unavailable("NATS does not answer", reason="NATS_AWAY")
        if self._bucket is None:
            self._bucket = await self._nats.key_value(BUCKET)
        return self._bucket

    async def _update(self, bucket: KeyValue, assignment: Assignment, value: bytes) -> None:
        revision, _ = self._written[assignment.worker]
        try:
            revision = await bucket.update(key_of(assignment.worker), value, last=revision)
        except KeyWrongLastSequenceError:
            # Somebody else wrote: a later leader, then this one stops; or an earlier one that did not know yet.
            revision, _ = await self._read(bucket, assignment)
            revision = await bucket.update(key_of(assignment.worker), value, last=revision)
        self._written[assignment.worker] = (revision, value)

    async def _read(self, bucket: KeyValue, assignment: Assignment) -> tuple[int, bytes]:
        """Return revision and value of what is there; 0 and nothing where there is none.

        Raises:
            Aborted: a later leader wrote it.
        """
        key = key_of(assignment.worker)
        try:
            # The public `get` hides the revision of a deleted key, which compare-and-set needs.
            entry = await bucket._get(key)
        except KeyDeletedError as error:
            return (error.entry.revision or 0, b"") if error.entry is not None else (0, b"")
        except KeyNotFoundError:
            return 0, b""
        there = scheduler_pb2.Assignment.FromString(entry.value or b"")
        if there.leader_epoch > assignment.leader_epoch:
            raise Aborted(
                f"scheduler of epoch {there.leader_epoch} leads, this one is of {assignment.leader_epoch}",
                reason="NOT_LEADER",
                metadata={"leader_epoch": str(there.leader_epoch)},
            )
        return entry.revision or 0, entry.value or b""
