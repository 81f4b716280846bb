"""Loads a graph with its other files, and tries it."""

import hashlib
from collections.abc import Mapping
from typing import Any

from servicekit.brain_floats import with_brain_floats
from servicekit.model_example import EXAMPLE_ARTIFACT
from servicekit.onnx_graph import NotAGraph, read_values
from servicekit.onnx_sequences import to_servable
from servicekit.onnx_text import load_problem
from servicekit.onnx_weights import give_weights, inline_inner
from services.registry.verifier.external import files_read
from services.registry.verifier.refusal import Refused, is_about_memory, out_of_memory
from services.registry.verifier.signature import named, read_signature
from services.registry.verifier.trial import try_samples

MODEL = "model.onnx"
_MOST_WARNINGS = 100


def try_model(files: Mapping[str, bytes | bytearray], known: Mapping[str, str]) -> dict[str, object]:
    """Load a graph and try it.

    Args:
        files: model.onnx, the files of weights that it may read, and the example, by name.
        known: a text that each input of texts takes, as far as known.

    Returns:
        inputs, outputs, warnings, sample_failure and weight_files, as the service reads them.

    Raises:
        Refused: it cannot be served.
    """
    model = bytes(files[MODEL])
    try:
        servable = to_servable(model)
        values = read_values(servable.content)
    except NotAGraph as error:
        raise Refused("NOT_ONNX", f"the file is not an ONNX model: {error}") from error
    weights = _weights(files)
    try:
        session = with_brain_floats(_load(inline_inner(servable.content, weights), weights))
    except ValueError as error:
        raise Refused("UNSUPPORTED_TYPE", f"{error}: export the model with an additional Cast to FP32") from error
    except Refused as refused:
        raise named(refused, values, servable) from refused
    signature = read_signature(session, values, servable, known)
    names = [str(item["name"]) for item in signature.tensors_out]
    example = bytes(files[EXAMPLE_ARTIFACT]) if EXAMPLE_ARTIFACT in files else None
    failure, warnings = try_samples(session, signature.inputs, names, example)
    return {
        "inputs": signature.tensors_in,
        "outputs": signature.tensors_out,
        "warnings": [*signature.warnings, *warnings][:_MOST_WARNINGS],
        "sample_failure": failure,
        "weight_files": list(weights),
    }


def digests(files: Mapping[str, bytes | bytearray]) -> dict[str, str]:
    """Return the SHA-256 of files by name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _weights(files: Mapping[str, bytes | bytearray]) -> dict[str, bytes | bytearray]:
    others = {name: content for name, content in files.items() if name not in (MODEL, EXAMPLE_ARTIFACT)}
    read = files_read(bytes(files[MODEL]), {name: len(content) for name, content in others.items()})
    # Tensors in safetensors are harmless, and may be beside a model for another reader.
    if unread := sorted(name for name in set(others) - read if not name.endswith(".safetensors")):
        raise Refused("ARTIFACT_NOT_ALLOWED", f"{unread[0]} is no file that the graph reads: leave it out")
    return {name: others[name] for name in sorted(read)}


def _load(model: bytes, weights: Mapping[str, bytes | bytearray]) -> Any:
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    give_weights(options, model, weights)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:
        if is_about_memory(str(error)):
            raise out_of_memory("loading the model") from error
        raise Refused(*load_problem(str(error))) from error
