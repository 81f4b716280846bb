"""Deletes what nothing uses: marked first, so that nothing new uses it while its users are looked up.

A deployment is kept first and reads its version's mark then; a deletion marks first and looks for deployments then. So
of two that happen at once at least one sees the other.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

from servicekit.resource_users import FoundUsers, ResourceUser, ResourceUsers, find_users, refuse_if_used
from servicekit.state import State
from services.registry.adapters.repository import SqlRepository
from services.registry.adapters.version_users import use_of_deployment, use_of_job
from services.registry.domain import registry
from services.registry.domain.versions import Version

# A mark that its process did not take back ends by itself.
_MARK_SECONDS = 120.0


class Deletion:
    """Marks versions, and finds what uses them.

    Args:
        state: the database.
        users: looks deployments and jobs up.
    """

    def __init__(self, state: State[SqlRepository], users: ResourceUsers) -> None:
        self._state = state
        self._users = users

    @contextlib.asynccontextmanager
    async def of_version(self, workspace: str, ref: str, *, force: bool) -> AsyncIterator[FoundUsers]:
        """Mark a version while the block runs, which deletes it; yield what uses it.

        Raises:
            NotFound: there is none.
            FailedPrecondition: something uses it, and force is not set.
            Unavailable: its users cannot be looked up, and force is not set.
        """
        until = datetime.now(UTC) + timedelta(seconds=_MARK_SECONDS)
        async with self._state.writing() as repository:
            version = await registry.find_version(repository, workspace, ref)
            naming = await registry.aliases_naming(repository, version)
            await repository.mark_deleting([version], until)
        aliases = tuple(ResourceUser("alias", alias.name, "names it") for alias in naming)
        async with self._unmarked_on_failure([version]):
            found = await self._find(version.ref, [version], force=force)
            found = FoundUsers((*aliases, *found.users), found.unchecked)
            if not force:
                refuse_if_used(version.ref, found.users, "VERSION_IN_USE")
            yield found

    @contextlib.asynccontextmanager
    async def of_model(self, workspace: str, name: str, *, force: bool) -> AsyncIterator[FoundUsers]:
        """Mark a model's versions while the block runs, which deletes it; yield what uses them. Aliases go with it.

        Raises:
            NotFound: there is none.
            FailedPrecondition: something uses one, and force is not set.
            Unavailable: its users cannot be looked up, and force is not set.
        """
        until = datetime.now(UTC) + timedelta(seconds=_MARK_SECONDS)
        async with self._state.writing() as repository:
            await registry.find_model(repository, workspace, name)
            versions = await repository.all_versions(workspace, name)
            await repository.mark_deleting(versions, until)
        async with self._unmarked_on_failure(versions):
            found = await self._find(name, versions, force=force)
            if not force:
                refuse_if_used(name, found.users, "MODEL_IN_USE")
            yield found

    async def _find(self, what: str, versions: Sequence[Version], *, force: bool) -> FoundUsers:
        if not versions:
            return FoundUsers()
        model, numbers = versions[0].model, {version.number for version in versions}
        return await find_users(
            self._users,
            what,
            lambda deployment: use_of_deployment(deployment, model, numbers),
            lambda job: use_of_job(job, model, numbers),
            force=force,
        )

    @contextlib.asynccontextmanager
    async def _unmarked_on_failure(self, versions: Sequence[Version]) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            async with self._state.writing() as repository:
                await repository.mark_deleting(versions, None)
            raise
