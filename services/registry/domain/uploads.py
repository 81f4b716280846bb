"""Artifacts coming in, and the checks that make a version READY or FAILED."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from servicekit.errors import FailedPrecondition, InvalidArgument, NotFound
from services.registry.domain.checks import (
    MODEL_ARTIFACT,
    check_parity,
    check_verdict,
    check_weights,
    tried_beside,
    warnings_of,
)
from services.registry.domain.registry import find_version
from services.registry.domain.versions import (
    Artifact,
    Transition,
    Verdict,
    Version,
    VersionState,
    next_state,
)
from services.registry.ports import ArtifactStore, Repository, Verifier

Opening = Callable[[], AbstractAsyncContextManager[Repository]]


class Uploads:
    """What happens to a version's bytes outside of transactions.

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
                await repository.lock(workspace, version.model)
                present = await find_version(repository, workspace, version.ref)
                next_state(present.state, Transition.ACCEPT)
                replaced = await repository.set_artifact(version, stored)
        except BaseException:
            await self._artifacts.remove(workspace, [stored.object_name])
            raise
        await self._artifacts.remove(workspace, [replaced] if replaced else [])
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

    async def download(self, workspace: str, ref: str, name: str) -> AsyncIterator[bytes]:
        """Yield an artifact's bytes, checked against its digest.

        Raises:
            NotFound: there is no such version or artifact, or its bytes did not come yet.
            DataLoss: the stored bytes were damaged.
        """
        async with self._reading() as repository:
            version = await find_version(repository, workspace, ref)
        artifact = version.artifact(name)
        if artifact is None or not artifact.object_name:
            names = ", ".join(item.name for item in version.artifacts if item.object_name) or "none"
            raise NotFound(f"{version.ref} has no artifact {name!r}: it has {names}", reason="ARTIFACT_NOT_FOUND")
        async for chunk in self._artifacts.get(version.workspace, artifact):
            yield chunk

    async def judge(self, workspace: str, ref: str) -> Verdict | None:
        """Check a PENDING version, changing nothing; None for one that is READY or FAILED already.

        Stored bytes that were damaged raise, and the version stays PENDING: uploading them again mends it.

        Raises:
            FailedPrecondition: an artifact was not uploaded yet.
            DataLoss: stored bytes were damaged.
        """
        async with self._reading() as repository:
            version = await find_version(repository, workspace, ref)
        if version.state is not VersionState.PENDING:
            return None
        waiting = [artifact.name for artifact in version.artifacts if not artifact.object_name]
        if waiting:
            raise FailedPrecondition(f"{ref} still waits for {', '.join(waiting)}", reason="ARTIFACT_MISSING")
        if refusal := check_parity(version, self._parity_cap):
            return Verdict(refusal=refusal)
        return await self._try(version)

    async def _try(self, version: Version) -> Verdict:
        if version.declared.pretrained:
            return await self._read_weights(version)
        model = version.artifact(MODEL_ARTIFACT)
        assert model is not None  # check_artifacts saw to it
        tried = tried_beside(version)
        for artifact in version.artifacts:
            if artifact is not model and artifact not in tried:
                async for _ in self._artifacts.get(version.workspace, artifact):
                    """Hashes it: it must be whole before anybody may rely on it."""
        examples = {tensor.name: tensor.example for tensor in version.declared.inputs if tensor.example}
        content = self._artifacts.get(version.workspace, model)
        verdict = await self._verifier.verify(content, model.size_bytes, examples, self._stored(version, tried))
        return replace(verdict, refusal=check_verdict(version, model, verdict), warnings=warnings_of(version, verdict))

    async def _read_weights(self, version: Version) -> Verdict:
        verdict = await self._verifier.verify_weights(self._stored(version, version.artifacts))
        return replace(verdict, refusal=check_weights(version, verdict))

    def _stored(self, version: Version, artifacts: Sequence[Artifact]) -> list[tuple[str, int, AsyncIterator[bytes]]]:
        return [(item.name, item.size_bytes, self._artifacts.get(version.workspace, item)) for item in artifacts]


async def settle(repository: Repository, workspace: str, ref: str, verdict: Verdict | None) -> Version:
    """Make a PENDING version READY or FAILED, as was judged; one that ended meanwhile stays as it is.

    Raises:
        FailedPrecondition: it was not judged.
    """
    found = await find_version(repository, workspace, ref)
    await repository.lock(workspace, found.model)
    version = await find_version(repository, workspace, found.ref)
    if version.state is not VersionState.PENDING:
        return version
    if verdict is None:
        raise FailedPrecondition(f"{ref} was not checked", reason="VERSION_NOT_CHECKED")
    if verdict.refusal is None:
        return await repository.end_version(version, next_state(version.state, Transition.ACCEPT), verdict=verdict)
    return await repository.end_version(
        version,
        next_state(version.state, Transition.REFUSE),
        reason=verdict.refusal.reason,
        message=verdict.refusal.message,
        verdict=verdict,
    )
