"""What the training domain needs of the outside."""

from typing import Protocol

from services.training.domain.jobs import Job


class Listing(Protocol):
    """Which part of a list is wanted: see servicekit.paging.Page."""

    @property
    def size(self) -> int: ...
    @property
    def token(self) -> str: ...
    @property
    def filter(self) -> str: ...
    @property
    def order_by(self) -> str: ...


class Repository(Protocol):
    """Jobs, within one transaction."""

    async def find(self, workspace: str, name: str) -> Job:
        """Return a job, locked for a writing transaction.

        Raises:
            NotFound: there is none.
        """
        ...

    async def add(self, job: Job) -> None:
        """Keep a new job, publishing training.job.queued."""
        ...

    async def save(self, before: Job, after: Job, metrics: dict[str, float] | None = None, step: int = 0) -> None:
        """Keep a job's change with its update, publishing it where the state is another one."""
        ...

    async def list_jobs(self, workspace: str | None, page: Listing) -> tuple[list[Job], str]:
        """Return a page of jobs, of a workspace or all, and the token of the next."""
        ...

    async def kept_objects(self) -> list[str]:
        """Return the name of every object that a job's checkpoint or report needs."""
        ...

    async def updates_after(self, workspace: str, name: str, sequence: int) -> list[bytes]:
        """Return the first of a job's updates after a sequence number, as the contract has them; some 500."""
        ...
