"""What the registry's domain needs of the outside."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from services.registry.domain.aliases import Alias, Move
from services.registry.domain.versions import Artifact, Declaration, Verdict, Version, VersionState


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


class Model(Protocol):
    """A named series of versions."""

    @property
    def name(self) -> str: ...
    @property
    def latest_version(self) -> int: ...
    @property
    def latest_ready_version(self) -> int: ...
    @property
    def create_time(self) -> datetime: ...


class Repository(Protocol):
    """Models, versions and aliases, within one transaction."""

    async def begin_model(self, workspace: str, model: str) -> None:
        """Make a model if it is absent, and lock it."""
        ...

    async def lock(self, workspace: str, model: str) -> None:
        """Let nobody else change a model until the transaction ends; what is read from here on is settled."""
        ...

    async def find_model(self, workspace: str, name: str) -> Model | None:
        """Return a model, or None."""
        ...

    async def remove_model(self, workspace: str, name: str) -> list[str]:
        """Delete a model with its versions and aliases; return the objects that nothing needs any more."""
        ...

    async def stale_versions(self, before: datetime) -> list[Version]:
        """Return the versions that are PENDING since before a time."""
        ...

    async def find_version(self, workspace: str, model: str, number: int) -> Version | None:
        """Return a version, or None."""
        ...

    async def newest_ready(self, workspace: str, model: str) -> Version | None:
        """Return a model's newest READY version, or None."""
        ...

    async def versions_of_job(self, workspace: str, job: str) -> list[Version]:
        """Return the versions that a job made."""
        ...

    async def raise_job_epoch(self, workspace: str, job: str, epoch: int) -> int:
        """Keep the highest epoch seen of a job; return what it was before, 0 for none."""
        ...

    async def add_version(self, workspace: str, model: str, declared: Declaration) -> Version:
        """Give a model, which is locked, its next number, in state PENDING."""
        ...

    async def set_artifact(self, version: Version, artifact: Artifact) -> str:
        """Keep where an artifact is stored; return the object that it replaces, or nothing."""
        ...

    async def forget_objects(self, version: Version) -> None:
        """Forget where a version's artifacts are stored."""
        ...

    async def end_version(
        self,
        version: Version,
        state: VersionState,
        *,
        reason: str = "",
        message: str = "",
        verdict: Verdict | None = None,
    ) -> Version:
        """Move a version to its last state, publishing registry.version.ready where it is that; return it.

        Raises:
            Aborted: it changed since it was read.
        """
        ...

    async def mark_deleting(self, versions_of: Sequence[Version], until: datetime | None) -> None:
        """Have nothing new use some versions until a time; None lets everything use them again."""
        ...

    async def all_versions(self, workspace: str, model: str) -> list[Version]:
        """Return a model's versions by number."""
        ...

    async def remove_version(self, version: Version) -> None:
        """Delete a version."""
        ...

    async def find_alias(self, workspace: str, model: str, name: str) -> Alias | None:
        """Return an alias, or None."""
        ...

    async def aliases_of(self, workspace: str, model: str) -> list[Alias]:
        """Return a model's aliases by name."""
        ...

    async def moves_of(self, workspace: str, model: str, name: str) -> list[Move]:
        """Return an alias's moves, newest first."""
        ...

    async def move_alias(
        self, workspace: str, model: str, name: str, from_number: int, to_number: int, subject: str
    ) -> Alias:
        """Move, create or (to 0) delete an alias, with its history, publishing registry.alias.moved; return it."""
        ...


class ArtifactStore(Protocol):
    """Encrypted artifacts."""

    async def put(self, workspace: str, artifact: Artifact, chunks: AsyncIterator[bytes]) -> str:
        """Store an artifact's bytes if they are what was declared; return the object's name."""
        ...

    def get(self, workspace: str, artifact: Artifact) -> AsyncIterator[bytes]:
        """Yield an artifact's bytes, checked against its digest."""
        ...

    async def remove(self, workspace: str, object_names: list[str]) -> None:
        """Delete what was stored."""
        ...


class Verifier(Protocol):
    """Tries a model where it can do no harm."""

    async def verify(
        self,
        content: AsyncIterator[bytes],
        size_bytes: int,
        examples: dict[str, str],
        extra_files: Sequence[tuple[str, int, AsyncIterator[bytes]]] = (),
    ) -> Verdict:
        """Hash, load and sample-predict a model.

        Args:
            content: the ONNX file, in pieces.
            size_bytes: its size.
            examples: a value to try by input, for those whose values are known.
            extra_files: name, size in bytes and content of the files that it may read weights from, and of its example.
        """
        ...

    async def verify_weights(self, files: Sequence[tuple[str, int, AsyncIterator[bytes]]]) -> Verdict:
        """Read what pretrained weights say of themselves: the headers of .safetensors, and JSON.

        Args:
            files: name, size in bytes and content of each.
        """
        ...
