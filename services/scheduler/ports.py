"""What the scheduler needs of others."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from services.scheduler.domain.assignment import Assignment, Leadership, Stored
from services.scheduler.domain.cluster import (
    Move,
    Resources,
    WantedDeployment,
    WantedJob,
    Worker,
    WorkerKind,
)


class Repository(Protocol):
    """The scheduler's tables within one transaction. Writes of a stale leader are refused: see `fence`."""

    async def leadership(self) -> Leadership:
        """Return the leader's row; epoch 0 where there never was one."""
        ...

    async def take_leadership(self, holder: str, seen: Leadership, least_epoch: int = 0) -> int | None:
        """Lead from now on, unless the row changed since it was seen; return the new epoch, or None.

        Args:
            holder: who is to lead.
            seen: the row as it was seen.
            least_epoch: an epoch that the new one must be above, beside the row's.
        """
        ...

    async def beat(self, epoch: int) -> None:
        """Show that the leader lives.

        Raises:
            Aborted: another one leads.
        """
        ...

    async def release_leadership(self, epoch: int) -> None:
        """Let another one lead at once."""
        ...

    async def fence(self, epoch: int) -> None:
        """Check that a leadership still holds, for the rest of this transaction.

        Raises:
            Aborted: another one leads.
        """
        ...

    async def load(self) -> Stored:
        """Return workers and placements."""
        ...

    async def register(self, worker: str, kind: WorkerKind, capacity: Resources, address: str, now: float) -> Worker:
        """Give a worker a lease epoch above any before, and its jobs new placement epochs."""
        ...

    async def lose(self, worker: str, epoch: int) -> None:
        """Mark a worker as lost, if its lease still has this epoch."""
        ...

    async def deregister(self, worker: str, epoch: int) -> None:
        """Forget a worker and its placements.

        Raises:
            Aborted: its lease has another epoch.
        """
        ...

    async def set_draining(self, worker: str, drained_at: float | None) -> Worker:
        """Begin (a time) or end (None) a worker's drain.

        Raises:
            NotFound: there is no such worker.
            FailedPrecondition: it is lost.
        """
        ...

    async def apply(self, moves: Iterable[Move], now: float) -> None:
        """Write moves down, with new epochs for what is placed, and their events."""
        ...

    async def forget_lost(self, joined_before: float) -> None:
        """Forget lost workers that registered long ago."""
        ...


class Store(Protocol):
    """Opens repositories."""

    def writing(self) -> AbstractAsyncContextManager[Repository]:
        """One write transaction."""
        ...

    def reading(self) -> AbstractAsyncContextManager[Repository]:
        """One state, to read."""
        ...


class Projection(Protocol):
    """Where workers read what they are to do."""

    async def write(self, assignment: Assignment) -> None:
        """Make an assignment the worker's latest.

        Raises:
            Aborted: one with a higher leader epoch is there.
            Unavailable: it cannot be written now.
        """
        ...

    async def remove(self, worker: str) -> None:
        """Remove a worker's assignment, if there is one."""
        ...

    def forget(self) -> None:
        """Assume nothing of what was written: read before the next write."""
        ...


class DeploymentSource(Protocol):
    """The inference service."""

    async def list_deployments(self) -> list[WantedDeployment]:
        """Return the deployments of all workspaces."""
        ...


class JobSource(Protocol):
    """The training service."""

    async def list_jobs(self) -> list[WantedJob]:
        """Return the queued and running jobs of all workspaces."""
        ...
