"""What deployments need of the outside."""

from typing import Protocol

from services.inference.domain.deployments import Deployment, ModelVersion, Waiting


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
    """Deployments, within one transaction."""

    async def find(self, workspace: str, name: str) -> Deployment:
        """Return a deployment, locked for a writing transaction.

        Raises:
            NotFound: there is none.
        """
        ...

    async def add(self, deployment: Deployment) -> Deployment:
        """Keep a new deployment, publishing inference.deployment.changed.

        Raises:
            AlreadyExists: there is one of that name.
        """
        ...

    async def save(self, deployment: Deployment) -> Deployment:
        """Keep what is wanted anew, with a new etag, publishing inference.deployment.changed; return it."""
        ...

    async def save_observed(self, deployment: Deployment) -> Deployment:
        """Keep how far a deployment is true; return it."""
        ...

    async def save_reserved(self, deployment: Deployment) -> Deployment:
        """Keep what a deployment's replicas reserve, publishing inference.deployment.changed; return it."""
        ...

    async def remove(self, deployment: Deployment) -> None:
        """Delete a deployment, publishing inference.deployment.changed."""
        ...

    async def followers(self, workspace: str, ref: str) -> list[Deployment]:
        """Return the deployments that follow an alias, name@alias."""
        ...

    async def everyone(self) -> list[Deployment]:
        """Return the deployments of all workspaces."""
        ...

    async def list_deployments(self, workspace: str | None, page: Listing) -> tuple[list[Deployment], str]:
        """Return a page of deployments, of a workspace or all, and the token of the next."""
        ...


class Placements(Protocol):
    """The scheduler, as the deployments service sees it."""

    async def waiting(self) -> dict[tuple[str, str], Waiting]:
        """Return why deployments have replicas without a worker, by workspace and name.

        Raises:
            LeptonError: the scheduler does not answer.
        """
        ...


class Registry(Protocol):
    """The registry, as the caller may see it."""

    async def resolve(self, ref: str) -> ModelVersion:
        """Return the version that a reference means.

        Raises:
            NotFound: there is none.
        """
        ...
