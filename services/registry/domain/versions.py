"""Versions: what is declared of them, and the states that they go through."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Self

from servicekit.errors import FailedPrecondition, InvalidArgument

_REF = re.compile(r"(?P<model>[a-z0-9][a-z0-9_-]{0,62})(@(?P<which>[a-z0-9][a-z0-9_-]{0,62}))?")
# More digits than any number has, and as many as a database takes.
_MOST_DIGITS = 18


class VersionState(Enum):
    """Where a version stands."""

    PENDING = "PENDING"
    READY = "READY"
    FAILED = "FAILED"


class Transition(Enum):
    """What can happen to a version."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    SUPERSEDE = "supersede"


# Every state and transition: the state after it, or None where it cannot happen.
TRANSITIONS: dict[tuple[VersionState, Transition], VersionState | None] = {
    (VersionState.PENDING, Transition.ACCEPT): VersionState.READY,
    (VersionState.PENDING, Transition.REFUSE): VersionState.FAILED,
    (VersionState.PENDING, Transition.SUPERSEDE): VersionState.FAILED,
    (VersionState.READY, Transition.ACCEPT): None,
    (VersionState.READY, Transition.REFUSE): None,
    (VersionState.READY, Transition.SUPERSEDE): None,
    (VersionState.FAILED, Transition.ACCEPT): None,
    (VersionState.FAILED, Transition.REFUSE): None,
    (VersionState.FAILED, Transition.SUPERSEDE): None,
}


def next_state(state: VersionState, transition: Transition) -> VersionState:
    """Return the state after a transition.

    Raises:
        FailedPrecondition: it cannot happen in this state.
    """
    after = TRANSITIONS[state, transition]
    if after is None:
        raise FailedPrecondition(
            f"a version that is {state.value} cannot be changed: register a new one", reason="VERSION_NOT_PENDING"
        )
    return after


@dataclass(frozen=True)
class VersionRef:
    """What `name@3`, `name@champion` or `name` means.

    Args:
        model: the model's id.
        number: the version's number; 0 where the text gives none.
        alias: the alias; empty where the text gives none. With neither, the newest READY version is meant.
    """

    model: str
    number: int = 0
    alias: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference.

        Raises:
            InvalidArgument: it is none.
        """
        match = _REF.fullmatch(text)
        if match is None:
            raise InvalidArgument(
                f"{text!r} is no version reference: expected name@number, name@alias or a name", reason="BAD_REF"
            )
        which = match["which"] or ""
        if not which.isdecimal():
            return cls(match["model"], alias=which)
        if len(which) > _MOST_DIGITS or which.startswith("0"):
            raise InvalidArgument(f"{text!r}: no version has that number; they begin at 1", reason="BAD_REF")
        return cls(match["model"], number=int(which))


@dataclass(frozen=True)
class Artifact:
    """A declared file.

    Args:
        name: one of the allowed kinds.
        sha256: of its bytes, lower-case hex.
        size_bytes: how many.
        object_name: where it is stored; empty until it is uploaded.
    """

    name: str
    sha256: str
    size_bytes: int
    object_name: str = ""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Args:
        name: in the graph.
        datatype: Open Inference name: FP32, BYTES, ...
        shape: batch first; -1 for a variable dimension.
        example: a value that it takes, where training knew some.
        labels: the classes of an output's last dimension, where the graph says so.
        any_rank: whether the graph gives no rank; shape is empty then.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    example: str = ""
    labels: tuple[str, ...] = ()
    any_rank: bool = False


@dataclass(frozen=True)
class Parity:
    """How far an export strays from the trained model.

    Args:
        max_difference: largest difference over rows and outputs.
        tolerance: the bound that the worker declares.
        rows: compared.
        label_mismatches: rows whose label differs.
    """

    max_difference: float
    tolerance: float
    rows: int
    label_mismatches: int


@dataclass(frozen=True)
class Declaration:
    """What is said of a version before its bytes come.

    Args:
        artifacts: its files.
        inputs, outputs: its signature; empty where it is to be read from the graph.
        job: the job that made it; empty for a model made elsewhere.
        job_epoch: of the worker's claim on the job.
        parity: the worker's measurement; None for a model made elsewhere.
        record: what only the contract reads, serialised: lineage, evaluations, the whole signature.
        pretrained: whether it is weights to begin from, which nothing serves.
    """

    artifacts: tuple[Artifact, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    job: str
    job_epoch: int
    parity: Parity | None
    record: bytes
    pretrained: bool = False


@dataclass(frozen=True)
class Version:
    """A numbered model.

    Args:
        workspace, model, number: which one it is.
        state: where it stands.
        declared: what was said of it; its artifacts know where they are stored.
        error_reason, error_message: why it was refused.
        create_time, end_time: when it was numbered, and when it was accepted or refused.
        is_deleting: whether it is about to be deleted, so that nothing new may use it.
    """

    workspace: str
    model: str
    number: int
    state: VersionState
    declared: Declaration
    error_reason: str
    error_message: str
    create_time: datetime
    end_time: datetime | None
    is_deleting: bool = False

    @property
    def ref(self) -> str:
        """name@number."""
        return f"{self.model}@{self.number}"

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """Its files."""
        return self.declared.artifacts

    @property
    def digest(self) -> str:
        """SHA-256 over its artifacts' digests by name."""
        return digest_of(self.artifacts)

    def artifact(self, name: str) -> Artifact | None:
        """Return the artifact of a name, or None."""
        return next((artifact for artifact in self.artifacts if artifact.name == name), None)


@dataclass(frozen=True)
class Refusal:
    """Why a version is refused.

    Args:
        reason: stable.
        message: for people.
    """

    reason: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """What the verifying child found.

    Args:
        inputs, outputs: of the graph.
        refusal: why the model cannot be served; None where it can.
        sha256: of the bytes that were tried; empty where none were.
        digests: SHA-256 of the files that were read, by name, other than model.onnx.
        warnings: what is to be known of a model that can be served, for people.
        sample_failure: why no sample prediction went well; empty where one did.
        weight_files: the files that model.onnx reads weights from.
    """

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    refusal: Refusal | None = None
    sha256: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    sample_failure: str = ""
    weight_files: tuple[str, ...] = ()


def digest_of(artifacts: Iterable[Artifact]) -> str:
    """Return the SHA-256 over `name:sha256` lines, sorted."""
    lines = sorted(f"{artifact.name}:{artifact.sha256}\n" for artifact in artifacts)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
