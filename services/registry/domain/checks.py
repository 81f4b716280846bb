"""What a version must fulfil: its files' names and sizes, who may name a job, the parity gate, the signature."""

import re
from collections.abc import Iterable

from servicekit.errors import InvalidArgument, PermissionDenied
from services.registry.domain.versions import Artifact, Declaration, Refusal, Tensor, Verdict, Version

MODEL_ARTIFACT = "model.onnx"
# Of which weights tell how they are to be read: an encoder of texts as its makers publish it, or a model of ours.
_DESCRIPTIONS = ({"config.json", "tokenizer.json"}, {"family.json"})
# An example of a request, tried in place of samples.
EXAMPLE_ARTIFACT = "example.json"
# One ONNX file, for it alone is tried before it may be served. Files of weights have any plain name; those that the
# graph does not read are refused once it is tried.
_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+=-]{0,127}")
# What runs code when it is loaded, or is made to be run.
_CODE = re.compile(
    r"\.(py|pyc|pkl|pickle|pt|pth|pt2|ckpt|joblib|dill|cloudpickle|h5|hdf5|keras|msgpack|npy|npz|so|dll|dylib|exe|sh|bat|"
    r"js|jar|class|whl|zip|tar|gz|onnx|ort|engine|plan)$",
    re.IGNORECASE,
)
# Of a protobuf message.
_MOST_GRAPH_BYTES = (1 << 31) - 1
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
        if artifact.name != MODEL_ARTIFACT and not _is_allowed(artifact.name):
            raise InvalidArgument(
                f"artifact {artifact.name!r} is not allowed: expected {MODEL_ARTIFACT}, a file that it reads weights "
                "from (model.onnx.data, say), or a plain name ending in .safetensors, .json or .txt; formats that may "
                "run code on load are never taken",
                reason="ARTIFACT_NOT_ALLOWED",
            )
        if artifact.name == MODEL_ARTIFACT and artifact.size_bytes > _MOST_GRAPH_BYTES:
            raise InvalidArgument(
                f"{MODEL_ARTIFACT} has {artifact.size_bytes:,} bytes, and an ONNX file has 2 GiB at most: save "
                "its weights as external data, onnx.save(model, 'model.onnx', save_as_external_data=True, "
                "location='model.onnx.data'), and upload both files",
                reason="MODEL_TOO_LARGE",
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


def _is_allowed(name: str) -> bool:
    return _ARTIFACT_NAME.fullmatch(name) is not None and _CODE.search(name) is None


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
    for artifact in version.artifacts:
        if verdict.digests.get(artifact.name, artifact.sha256) != artifact.sha256:
            return Refusal("DIGEST_MISMATCH", f"the bytes of {artifact.name} that were tried have another SHA-256")
    if verdict.refusal:
        return verdict.refusal
    if version.declared.job and verdict.sample_failure:
        # Training exports what it knows: a graph of its own that does not answer is a fault of the export.
        return Refusal("SAMPLE_PREDICTION_FAILED", verdict.sample_failure)
    return check_signature(version.declared, verdict)


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


def tried_beside(version: Version) -> tuple[Artifact, ...]:
    """Return the files that the verifier needs with model.onnx: an example, and what may be a graph's weights.

    A model trained here is one file.
    """
    if version.declared.job:
        return ()
    return tuple(
        item
        for item in version.artifacts
        if item.name == EXAMPLE_ARTIFACT or not item.name.endswith((".onnx", ".json", ".txt"))
    )


def warnings_of(version: Version, verdict: Verdict) -> tuple[str, ...]:
    """Return what is to be known of a version made elsewhere that can be served; nothing of one trained here."""
    if version.declared.job:
        return ()
    failure = (verdict.sample_failure,) if verdict.sample_failure else ()
    return (*failure, *verdict.warnings)
