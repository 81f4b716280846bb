"""What can be done with models, versions and aliases, each within one transaction."""

from collections.abc import Sequence
from datetime import datetime

from servicekit.errors import Aborted, FailedPrecondition, NotFound
from services.registry.domain.aliases import Alias, check_etag, check_name, rollback_target
from services.registry.domain.checks import check_artifacts
from services.registry.domain.versions import (
    Declaration,
    Transition,
    Version,
    VersionRef,
    VersionState,
    next_state,
)
from services.registry.ports import Model, Repository


async def find_version(repository: Repository, workspace: str, ref: str) -> Version:
    """Return the version that `name@3`, `name@champion`, or a name alone (the newest READY one) means.

    Raises:
        InvalidArgument: that is no reference.
        NotFound: there is none.
    """
    wanted = VersionRef.parse(ref)
    version = None
    if wanted.number:
        version = await repository.find_version(workspace, wanted.model, wanted.number)
    elif not wanted.alias:
        version = await repository.newest_ready(workspace, wanted.model)
    elif alias := await repository.find_alias(workspace, wanted.model, wanted.alias):
        version = await repository.find_version(workspace, wanted.model, alias.number)
    if version is None:
        raise NotFound(f"no model version {ref!r}", reason="MODEL_VERSION_NOT_FOUND")
    return version


async def find_model(repository: Repository, workspace: str, name: str) -> Model:
    """Return a model.

    Raises:
        NotFound: there is none.
    """
    model = await repository.find_model(workspace, name)
    if model is None:
        raise NotFound(f"no model {name!r}", reason="MODEL_NOT_FOUND")
    return model


async def create_version(
    repository: Repository, workspace: str, model: str, declared: Declaration, max_artifact_bytes: int
) -> Version:
    """Take a model's next number; for a job that runs again, give back what it made already.

    Raises:
        InvalidArgument: an artifact is not allowed.
        Aborted: the job has been given to another worker since.
    """
    check_artifacts(declared.artifacts, max_artifact_bytes, pretrained=declared.pretrained)
    if declared.job:
        await _check_epoch(repository, workspace, declared)
    await repository.begin_model(workspace, model)
    if declared.job and (made := await _made_before(repository, workspace, declared)):
        return made
    return await repository.add_version(workspace, model, declared)


async def _check_epoch(repository: Repository, workspace: str, declared: Declaration) -> None:
    before = await repository.raise_job_epoch(workspace, declared.job, declared.job_epoch)
    if declared.job_epoch < before:
        raise Aborted(
            f"job {declared.job} was given to another worker: epoch {declared.job_epoch} is older than {before}",
            reason="STALE_EPOCH",
        )


async def _made_before(repository: Repository, workspace: str, declared: Declaration) -> Version | None:
    """Return the READY version of a job, or None; what an earlier run of it left PENDING is superseded."""
    versions = await repository.versions_of_job(workspace, declared.job)
    for version in versions:
        if version.state is VersionState.PENDING:
            await _give_up(repository, version, Transition.SUPERSEDE, "SUPERSEDED", "its job began anew")
    return next((version for version in versions if version.state is VersionState.READY), None)


async def give_up_stale(repository: Repository, before: datetime) -> None:
    """Fail the versions that are PENDING since before a time: nobody will finish them."""
    for stale in await repository.stale_versions(before):
        await repository.lock(stale.workspace, stale.model)
        version = await repository.find_version(stale.workspace, stale.model, stale.number)
        if version is not None and version.state is VersionState.PENDING:
            await _give_up(repository, version, Transition.REFUSE, "NEVER_FINISHED", "its upload never ended")


async def _give_up(repository: Repository, version: Version, transition: Transition, reason: str, message: str) -> None:
    await repository.end_version(version, next_state(version.state, transition), reason=reason, message=message)
    # Half of a version is no use to anybody; the next sweep takes the bytes.
    await repository.forget_objects(version)


async def delete_model(
    repository: Repository, workspace: str, name: str, subject: str, *, force: bool = False
) -> list[str]:
    """Delete a model with all its versions, which are marked so, and aliases; return the objects to remove.

    Raises:
        NotFound: there is none.
        Aborted: a mark has ended, or a version came since: what uses it is not known.
    """
    await repository.lock(workspace, name)
    await find_model(repository, workspace, name)
    _check_marked(await repository.all_versions(workspace, name), force=force)
    for alias in await repository.aliases_of(workspace, name):
        await repository.move_alias(workspace, name, alias.name, alias.number, 0, subject)
    return await repository.remove_model(workspace, name)


async def delete_version(
    repository: Repository, workspace: str, ref: str, subject: str = "", *, force: bool = False
) -> Version:
    """Delete a version that is marked so, and that no alias names; with force its aliases go with it. Return it.

    Raises:
        FailedPrecondition: an alias names it.
        Aborted: its mark has ended: what uses it now is not known.
    """
    await repository.lock(workspace, VersionRef.parse(ref).model)
    version = await find_version(repository, workspace, ref)
    naming = await aliases_naming(repository, version)
    if naming and not force:
        named = ", ".join(alias.name for alias in naming)
        raise FailedPrecondition(
            f"{version.ref} is named by alias {named}: move or delete the alias first", reason="VERSION_IN_USE"
        )
    _check_marked([version], force=force)
    for alias in naming:
        await repository.move_alias(workspace, version.model, alias.name, alias.number, 0, subject)
    await repository.remove_version(version)
    return version


async def aliases_naming(repository: Repository, version: Version) -> list[Alias]:
    """Return the aliases that name a version, by name."""
    aliases = await repository.aliases_of(version.workspace, version.model)
    return [alias for alias in aliases if alias.number == version.number]


def _check_marked(versions: Sequence[Version], *, force: bool) -> None:
    """Check that nothing new could use some versions since what uses them was looked up.

    Raises:
        Aborted: a mark has ended, or a version came since.
    """
    unmarked = next((version for version in versions if not version.is_deleting), None)
    if unmarked is not None and not force:
        raise Aborted(
            f"deleting {unmarked.ref} took too long, or it changed meanwhile: delete it again", reason="DELETION_ENDED"
        )


async def promote(repository: Repository, workspace: str, ref: str, name: str, etag: str, subject: str) -> Alias:
    """Point an alias at a READY version.

    Raises:
        FailedPrecondition: the version is not READY, or is pretrained weights.
        Aborted: the alias moved since the etag was read.
    """
    check_name(name)
    await repository.lock(workspace, VersionRef.parse(ref).model)
    version = await find_version(repository, workspace, ref)
    if version.state is not VersionState.READY:
        raise FailedPrecondition(
            f"{version.ref} is {version.state.value}, and only a READY version can be promoted",
            reason="VERSION_NOT_READY",
        )
    if version.declared.pretrained:
        # Deployments follow aliases.
        raise FailedPrecondition(
            f"{version.ref} is pretrained weights, which nothing serves: fine-tune it first, and promote the outcome",
            reason="VERSION_IS_PRETRAINED",
        )
    present = await repository.find_alias(workspace, version.model, name)
    check_etag(present, etag)
    if present is not None and present.number == version.number:
        return present
    before = present.number if present else 0
    return await repository.move_alias(workspace, version.model, name, before, version.number, subject)


async def roll_back(repository: Repository, workspace: str, model: str, name: str, etag: str, subject: str) -> Alias:
    """Point an alias back at the version that it named before.

    Raises:
        FailedPrecondition: it never named another, or that one is gone.
        Aborted: the alias moved since the etag was read.
    """
    await repository.lock(workspace, model)
    present = await find_alias(repository, workspace, model, name)
    check_etag(present, etag)
    target = rollback_target(present, await repository.moves_of(workspace, model, name))
    if await repository.find_version(workspace, model, target) is None:
        raise FailedPrecondition(f"{model}@{target} was deleted: promote another version", reason="VERSION_GONE")
    return await repository.move_alias(workspace, model, name, present.number, target, subject)


async def delete_alias(repository: Repository, workspace: str, model: str, name: str, etag: str, subject: str) -> None:
    """Delete an alias; its history stays."""
    await repository.lock(workspace, model)
    present = await find_alias(repository, workspace, model, name)
    check_etag(present, etag)
    await repository.move_alias(workspace, model, name, present.number, 0, subject)


async def find_alias(repository: Repository, workspace: str, model: str, name: str) -> Alias:
    """Return an alias.

    Raises:
        NotFound: there is none.
    """
    alias = await repository.find_alias(workspace, model, name)
    if alias is None:
        raise NotFound(f"no alias {model}@{name}", reason="ALIAS_NOT_FOUND")
    return alias


async def check_known_alias(repository: Repository, workspace: str, model: str, name: str) -> None:
    """Check that an alias exists, or did: its history outlives it.

    Raises:
        NotFound: it never did.
    """
    if not await repository.moves_of(workspace, model, name):
        raise NotFound(f"no alias {model}@{name}", reason="ALIAS_NOT_FOUND")
