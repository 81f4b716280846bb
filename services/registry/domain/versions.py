"""Versions: how they are numbered, checked and refused."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from servicekit.errors import FailedPrecondition, InvalidArgument

MODEL_ARTIFACT = "model.onnx"
# Nothing that runs code when it is loaded: ONNX, safetensors, JSON and plain text alone.
_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,100}\.(onnx|safetensors|json|txt)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Labels at the edge of a decision may flip by rounding; more than this share is another model.
_LABEL_MISMATCH_SHARE = 0.001


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
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


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
class Version:
    """A numbered model.

    Args:
        workspace, model, number: which one it is.
        state: where it stands.
        artifacts: its files.
        inputs, outputs: the declared signature; empty where it is to be read from the graph.
        job: the job that made it; empty for a model made elsewhere.
        parity: the worker's measurement; None for a model made elsewhere.
        record: what only the contract reads, serialised: lineage, evaluations, the whole signature.
        error_reason, error_message: why it was refused.
        create_time, end_time: when it was numbered, and when it was accepted or refused.
    """

    workspace: str
    model: str
    number: int
    state: VersionState
    artifacts: tuple[Artifact, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    job: str
    parity: Parity | None
    record: bytes
    error_reason: str
    error_message: str
    create_time: datetime
    end_time: datetime | None

    @property
    def ref(self) -> str:
        """name@number."""
        return f"{self.model}@{self.number}"

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
    """

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    refusal: Refusal | None = None


def digest_of(artifacts: Iterable[Artifact]) -> str:
    """Return the SHA-256 over `name:sha256` lines, sorted."""
    lines = sorted(f"{artifact.name}:{artifact.sha256}\n" for artifact in artifacts)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_artifacts(artifacts: Iterable[Artifact], max_bytes: int) -> None:
    """Check the declared files.

    Raises:
        InvalidArgument: a name, digest or size is not allowed, or model.onnx lacks.
    """
    names: set[str] = set()
    for artifact in artifacts:
        if not _ARTIFACT_NAME.fullmatch(artifact.name):
            raise InvalidArgument(
                f"artifact {artifact.name!r} is not allowed: expected a plain name ending in .onnx, .safetensors, "
                ".json or .txt; formats that run code on load are never taken",
                reason="ARTIFACT_NOT_ALLOWED",
            )
        if not _SHA256.fullmatch(artifact.sha256):
            raise InvalidArgument(f"artifact {artifact.name!r}: sha256 must be 64 hex digits", reason="BAD_DIGEST")
        if artifact.name in names or not 0 < artifact.size_bytes <= max_bytes:
            raise InvalidArgument(
                f"artifact {artifact.name!r} stands twice, is empty or is larger than {max_bytes:,} bytes",
                reason="ARTIFACT_NOT_ALLOWED",
            )
        names.add(artifact.name)
    if MODEL_ARTIFACT not in names:
        raise InvalidArgument(f"a version needs an artifact named {MODEL_ARTIFACT}", reason="MODEL_MISSING")


def check_parity(version: Version, tolerance_cap: float) -> Refusal | None:
    """Return why the parity gate refuses a version, or None: a model made here must match its export on real rows."""
    if not version.job:
        return None
    parity = version.parity
    if parity is None or parity.rows <= 0:
        return Refusal("PARITY_MISSING", "a model trained here must bring its parity measurement")
    bound = min(parity.tolerance, tolerance_cap)
    # Not `>`: a NaN must fail.
    if not parity.max_difference <= bound:
        return Refusal(
            "PARITY_FAILED",
            f"the export differs from the trained model by {parity.max_difference:.3g}, more than {bound:.3g}",
        )
    if parity.label_mismatches > _LABEL_MISMATCH_SHARE * parity.rows:
        return Refusal(
            "PARITY_FAILED", f"the export gives another label in {parity.label_mismatches} of {parity.rows} rows"
        )
    return None


def check_signature(version: Version, verdict: Verdict) -> Refusal | None:
    """Return how the graph differs from the declared signature, or None; an undeclared one is the graph's."""
    for word, declared, found in (
        ("input", version.inputs, verdict.inputs),
        ("output", version.outputs, verdict.outputs),
    ):
        if not declared:
            continue
        if {tensor.name for tensor in declared} != {tensor.name for tensor in found}:
            names = [tensor.name for tensor in found]
            return Refusal("SIGNATURE_MISMATCH", f"the graph's {word}s are {', '.join(names)}, not those declared")
        by_name = {tensor.name: tensor for tensor in found}
        for tensor in declared:
            if not _agree(tensor, by_name[tensor.name]):
                return Refusal(
                    "SIGNATURE_MISMATCH",
                    f"{word} {tensor.name!r} is declared {tensor.datatype} {list(tensor.shape)}, and is "
                    f"{by_name[tensor.name].datatype} {list(by_name[tensor.name].shape)} in the graph",
                )
    return None


def _agree(declared: Tensor, found: Tensor) -> bool:
    if declared.datatype != found.datatype or len(declared.shape) != len(found.shape):
        return False
    return all(-1 in pair or pair[0] == pair[1] for pair in zip(declared.shape, found.shape, strict=True))
