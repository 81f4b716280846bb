"""What a version must fulfil: its files' names and sizes, who may name a job, the parity gate, the signature."""

import re
from collections.abc import Iterable

from servicekit.errors import InvalidArgument, PermissionDenied
from services.registry.domain.versions import Artifact, Declaration, Refusal, Tensor, Verdict, Version

MODEL_ARTIFACT = "model.onnx"
# Of which weights tell how they are to be read: an encoder of texts as its makers publish it, or a model of ours.
_DESCRIPTIONS = ({"config.json", "tokenizer.json"}, {"family.json"})
# Nothing that runs code when it is loaded. One ONNX file, for it alone is tried before it may be served.
_ARTIFACT_NAME = re.compile(r"model\.onnx|[A-Za-z0-9][A-Za-z0-9_-]{0,100}\.(safetensors|json|txt)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Labels at the edge of a decision may flip by rounding; more than this share is another model.
_LABEL_MISMATCH_SHARE = 0.001


def check_artifacts(artifacts: Iterable[Artifact], max_bytes: int, *, pretrained: bool = False) -> None:
    """Check the declared files.

    Raises:
        InvalidArgument: a name, digest or size is not allowed, or a file lacks without which the rest is no use.
    """
    names: set[str] = set()
    for artifact in artifacts:
        if not _ARTIFACT_NAME.fullmatch(artifact.name):
            raise InvalidArgument(
                f"artifact {artifact.name!r} is not allowed: expected {MODEL_ARTIFACT}, or a plain name ending in "
                ".safetensors, .json or .txt; formats that run code on load are never taken",
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
    if pretrained:
        _check_weights(names)
    elif MODEL_ARTIFACT not in names:
        raise InvalidArgument(f"a version needs an artifact named {MODEL_ARTIFACT}", reason="MODEL_MISSING")


def _check_weights(names: set[str]) -> None:
    is_described = any(needed <= names for needed in _DESCRIPTIONS)
    if not is_described or not any(name.endswith(".safetensors") for name in names):
        raise InvalidArgument(
            "pretrained weights are .safetensors with config.json and tokenizer.json, or family.json, beside them",
            reason="WEIGHTS_INCOMPLETE",
        )
    others = sorted(name for name in names if not name.endswith((".safetensors", ".json")))
    if others:
        raise InvalidArgument(
            f"pretrained weights have no {others[0]}: .safetensors and .json alone are taken",
            reason="ARTIFACT_NOT_ALLOWED",
        )


def check_claim(declared: Declaration, *, is_service: bool) -> None:
    """Check that whoever names a job as a model's maker may: lineage is a worker's word.

    Raises:
        PermissionDenied: a user's token names a job.
    """
    if declared.job and not is_service:
        raise PermissionDenied("only a training worker can name the job that made a model", reason="JOB_IS_INTERNAL")


def check_parity(version: Version, tolerance_cap: float) -> Refusal | None:
    """Return why the parity gate refuses a version, or None: a model made here must match its export on real rows."""
    if not version.declared.job:
        return None
    parity = version.declared.parity
    if parity is None or parity.rows <= 0:
        return Refusal("PARITY_MISSING", "a model trained here must bring its parity measurement")
    bound = min(parity.tolerance, tolerance_cap)
    # Not `>`: a NaN must fail.
    if not 0.0 <= parity.max_difference <= bound:
        return Refusal(
            "PARITY_FAILED",
            f"the export differs from the trained model by {parity.max_difference:.3g}, more than {bound:.3g}",
        )
    if not 0 <= parity.label_mismatches <= _LABEL_MISMATCH_SHARE * parity.rows:
        return Refusal(
            "PARITY_FAILED", f"the export gives another label in {parity.label_mismatches} of {parity.rows} rows"
        )
    return None


def check_verdict(version: Version, model: Artifact, verdict: Verdict) -> Refusal | None:
    """Return why what the child found refuses a version, or None."""
    if verdict.sha256 and verdict.sha256 != model.sha256:
        return Refusal("DIGEST_MISMATCH", f"the bytes that were tried have SHA-256 {verdict.sha256}")
    return verdict.refusal or check_signature(version.declared, verdict)


def check_weights(version: Version, verdict: Verdict) -> Refusal | None:
    """Return why what the child read refuses pretrained weights, or None."""
    if verdict.refusal:
        return verdict.refusal
    for artifact in version.artifacts:
        if verdict.digests.get(artifact.name) != artifact.sha256:
            return Refusal("DIGEST_MISMATCH", f"the bytes of {artifact.name} that were read have another SHA-256")
    return None


def check_signature(declared: Declaration, verdict: Verdict) -> Refusal | None:
    """Return how the graph differs from the declared signature, or None; an undeclared one is the graph's."""
    for word, said, found in (
        ("input", declared.inputs, verdict.inputs),
        ("output", declared.outputs, verdict.outputs),
    ):
        if not said:
            continue
        by_name = {tensor.name: tensor for tensor in found}
        if sorted(tensor.name for tensor in said) != sorted(by_name):
            names = ", ".join(tensor.name for tensor in found)
            return Refusal("SIGNATURE_MISMATCH", f"the graph's {word}s are {names}, not those declared")
        for tensor in said:
            if not _agree(tensor, by_name[tensor.name]):
                return Refusal(
                    "SIGNATURE_MISMATCH",
                    f"{word} {tensor.name!r} is declared {_read(tensor)}, and is {_read(by_name[tensor.name])} "
                    "in the graph",
                )
    return None


def _agree(declared: Tensor, found: Tensor) -> bool:
    if declared.datatype != found.datatype or len(declared.shape) != len(found.shape):
        return False
    return all(-1 in pair or pair[0] == pair[1] for pair in zip(declared.shape, found.shape, strict=True))


def _read(tensor: Tensor) -> str:
    return f"{tensor.datatype} {list(tensor.shape)}"
