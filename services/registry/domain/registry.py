"""What can be done with models, versions and aliases."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from servicekit.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from services.registry.domain.aliases import Alias, check_etag, check_name, rollback_target
from services.registry.domain.versions import (
    MODEL_ARTIFACT,
    Artifact,
    Parity,
    Refusal,
    Tensor,
    Transition,
    Verdict,
    Version,
    VersionState,
    check_artifacts,
    check_parity,
    check_signature,
    next_state,
)
from services.registry.ports import ArtifactStore, Repository, Verifier

Opening = Callable[[], AbstractAsyncContextManager[Repository]]


async def find_version(repository: Repository, workspace: str, ref: str) -> Version:
    """Return the version that `name@3`, `name@champion`, or a name alone (the newest READY one) means.

    Raises:
        NotFound: there is none.
    """
    model, separator, which = ref.partition("@")
    if not separator:
        version = await repository.newest_ready(workspace, model)
    elif which.isdecimal():
        version = await repository.find_version(workspace, model, int(which))
    else:
        alias = await repository.find_alias(workspace, model, which)
        version = await repository.find_version(workspace, model, alias.number) if alias else None
    if version is None:
        raise NotFound(f"no model version {ref!r}", reason="MODEL_VERSION_NOT_FOUND")
    return version


async def create_version(
    repository: Repository,
    workspace: str,
    model: str,
    artifacts: tuple[Artifact, ...],
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    job: str,
    job_epoch: int,
    parity: Parity | None,
    record: bytes,
    max_artifact_bytes: int,
) -> Version:
    """Take a model's next number; for a job that runs again, give back what it made already.

    Raises:
        InvalidArgument: an artifact is not allowed.
        Aborted: the job has been given to another worker since.
    """
    check_artifacts(artifacts, max_artifact_bytes)
    if job:
        before = await repository.raise_job_epoch(workspace, job, job_epoch)
        if job_epoch < before:
            raise Aborted(
                f"job {job} was given to another worker: epoch {job_epoch} is older than {before}", reason="STALE_EPOCH"
            )
        for version in await repository.versions_of_job(workspace, job):
            if version.state is VersionState.READY:
                return version
            if version.state is VersionState.PENDING:
                await repository.end_version(
                    version,
                    next_state(version.state, Transition.SUPERSEDE),
                    reason="SUPERSEDED",
                    message="its job began anew",
                )
    return await repository.add_version(workspace, model, artifacts, inputs, outputs, job, parity, record)


async def delete_version(repository: Repository, workspace: str, ref: str) -> Version:
    """Delete a version that no alias names; return it.

    Raises:
        FailedPrecondition: an alias names it.
    """
    version = await find_version(repository, workspace, ref)
    naming = [
        alias.name for alias in await repository.aliases_of(workspace, version.model) if alias.number == version.number
    ]
    if naming:
        raise FailedPrecondition(
            f"{version.ref} is named by alias {', '.join(naming)}: move or delete the alias first",
            reason="VERSION_IN_USE",
        )
    await repository.remove_version(version)
    return version


async def promote(repository: Repository, workspace: str, ref: str, name: str, etag: str, subject: str) -> Alias:
    """Point an alias at a READY version.

    Raises:
        FailedPrecondition: the version is not READY.
        Aborted: the alias moved since the etag was read.
    """
    check_name(name)
    version = await find_version(repository, workspace, ref)
    if version.state is not VersionState.READY:
        raise FailedPrecondition(
            f"{version.ref} is {version.state.value}, and only a READY version can be promoted",
            reason="VERSION_NOT_READY",
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
    present = await find_alias(repository, workspace, model, name)
    check_etag(present, etag)
    target = rollback_target(present, await repository.moves_of(workspace, model, name))
    if await repository.find_version(workspace, model, target) is None:
        raise FailedPrecondition(f"{model}@{target} was deleted: promote another version", reason="VERSION_GONE")
    return await repository.move_alias(workspace, model, name, present.number, target, subject)


async def delete_alias(repository: Repository, workspace: str, model: str, name: str, etag: str, subject: str) -> None:
    """Delete an alias; its history stays."""
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


class Uploads:
    """Artifacts coming in, and the checks that make a version READY.

    Args:
        artifacts: where they are stored.
        verifier: tries models.
        reading, writing: open a repository.
        parity_cap: the largest tolerance that a worker may declare.
    """

    def __init__(
        self, artifacts: ArtifactStore, verifier: Verifier, reading: Opening, writing: Opening, parity_cap: float
    ) -> None:
        self._artifacts = artifacts
        self._verifier = verifier
        self._reading = reading
        self._writing = writing
        self._parity_cap = parity_cap

    async def upload(self, workspace: str, ref: str, name: str, chunks: AsyncIterator[bytes]) -> Artifact:
        """Store a declared artifact; a repeat replaces what came before.

        Raises:
            InvalidArgument: it was not declared, or its bytes are others than declared.
            FailedPrecondition: the version is no longer PENDING.
        """
        version, declared = await self._declared(workspace, ref, name)
        stored = Artifact(
            name, declared.sha256, declared.size_bytes, await self._artifacts.put(workspace, declared, chunks)
        )
        try:
            async with self._writing() as repository:
                present = await find_version(repository, workspace, ref)
                next_state(present.state, Transition.ACCEPT)
                await repository.set_artifact(version, stored)
        except BaseException:
            await self._artifacts.remove(workspace, [stored.object_name])
            raise
        if declared.object_name:
            await self._artifacts.remove(workspace, [declared.object_name])
        return stored

    async def _declared(self, workspace: str, ref: str, name: str) -> tuple[Version, Artifact]:
        async with self._reading() as repository:
            version = await find_version(repository, workspace, ref)
        next_state(version.state, Transition.ACCEPT)
        declared = version.artifact(name)
        if declared is None:
            raise InvalidArgument(
                f"{ref} declares no artifact {name!r}, only {', '.join(item.name for item in version.artifacts)}",
                reason="ARTIFACT_NOT_DECLARED",
            )
        return version, declared

    async def finalize(self, workspace: str, ref: str, categories: dict[str, str]) -> Version:
        """Check a version, and make it READY or FAILED; one that is either stays as it is.

        Raises:
            FailedPrecondition: an artifact was not uploaded yet.
        """
        async with self._reading() as repository:
            version = await find_version(repository, workspace, ref)
        if version.state is not VersionState.PENDING:
            return version
        waiting = [artifact.name for artifact in version.artifacts if not artifact.object_name]
        if waiting:
            raise FailedPrecondition(f"{ref} still waits for {', '.join(waiting)}", reason="ARTIFACT_MISSING")
        verdict, refusal = await self._judge(version, categories)
        async with self._writing() as repository:
            present = await find_version(repository, workspace, ref)
            if present.state is not VersionState.PENDING:
                return present
            if refusal is None:
                return await repository.end_version(
                    present, next_state(present.state, Transition.ACCEPT), verdict=verdict
                )
            return await repository.end_version(
                present,
                next_state(present.state, Transition.REFUSE),
                reason=refusal.reason,
                message=refusal.message,
                verdict=verdict,
            )

    async def _judge(self, version: Version, categories: dict[str, str]) -> tuple[Verdict, Refusal | None]:
        if refusal := check_parity(version, self._parity_cap):
            return Verdict(), refusal
        artifact = version.artifact(MODEL_ARTIFACT)
        assert artifact is not None  # check_artifacts saw to it
        model = b"".join([chunk async for chunk in self._artifacts.get(version.workspace, artifact)])
        verdict = await self._verifier.verify(model, categories)
        return verdict, verdict.refusal or check_signature(version, verdict)
