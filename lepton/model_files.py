"""The files of a model made elsewhere: its graph, the files that this reads weights from, and an example."""

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lepton import errors
from lepton.v1 import registry_pb2

MODEL = "model.onnx"
EXAMPLE = "example.json"
# A request: inputs by name, each an array or nested lists; or a .npz of such arrays, or .json as Open Inference has it.
Example = Mapping[str, Any] | str | Path

# How protobuf writes the entry of an external tensor that names its file: key "location", then the value's length.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f]|[\x80-\xff][\x01-\x7f])")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+=-]{0,127}")
_DATATYPES = {
    **{f"{kind}{bits}": f"{kind}{bits}".upper() for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
_PIECE_BYTES = 1 << 20
# What reading a damaged .npz raises: a cut or falsified archive, and a header that claims more than there is memory.
_BAD_ARRAYS = (
    ValueError,
    OSError,
    EOFError,
    AttributeError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def gather(onnx: str | Path | bytes, files: Iterable[str | Path], example: Example | None) -> dict[str, bytes | Path]:
    """Return the files of a version by name: content, or where that lies.

    Args:
        onnx: the graph's file, or its bytes. Files of weights that the graph names are found in its folder.
        files: others.
        example: a request that the model answers; None for none.

    Raises:
        InvalidArgument: a file is missing, or the example is none.
    """
    content = onnx if isinstance(onnx, bytes) else _existing(onnx).read_bytes()
    found: dict[str, bytes | Path] = {MODEL: content}
    found |= {path.name: path for path in map(_existing, files)}
    if not isinstance(onnx, bytes):
        folder = Path(onnx).expanduser().parent
        siblings = {name: folder / name for name in weight_files(content) - set(found)}
        found |= {name: path for name, path in siblings.items() if path.is_file()}
    if example is not None:
        found[EXAMPLE] = to_example(example)
    return found


def weight_files(content: bytes) -> set[str]:
    """Return the plain names of files that a graph reads weights from (ONNX external data)."""
    names = set()
    for match in _LOCATION.finditer(content):
        length = match[1][0] if len(match[1]) == 1 else (match[1][0] & 0x7F) | match[1][1] << 7
        name = content[match.end() : match.end() + length].decode(errors="replace")
        if _PLAIN.fullmatch(name):
            names.add(name)
    return names


def to_artifact(name: str, content: bytes | Path) -> registry_pb2.Artifact:
    """Return what is declared of a file: its digest and size."""
    digest, size = hashlib.sha256(), 0
    with io.BytesIO(content) if isinstance(content, bytes) else open(content, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
    return registry_pb2.Artifact(name=name, sha256=digest.hexdigest(), size_bytes=size)


def to_example(example: Example) -> bytes:
    """Return an example as JSON in the form of an Open Inference request.

    Raises:
        InvalidArgument: it is neither arrays by input, nor a file of them.
    """
    if isinstance(example, Mapping):
        return _written(example)
    path = _existing(example)
    if path.suffix == ".npz":
        return _written(_arrays(path))
    if path.suffix != ".json":
        raise errors.InvalidArgument(
            f"{path.name}: expected an example as .npz (numpy.savez) or .json", reason="BAD_EXAMPLE"
        )
    content = path.read_bytes()
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidArgument(f"{path.name} is no JSON", reason="BAD_EXAMPLE") from error
    if not isinstance(parsed, dict):
        raise errors.InvalidArgument(f"{path.name}: expected a JSON object", reason="BAD_EXAMPLE")
    # Arrays by input are taken as well as a whole request.
    return content if isinstance(parsed.get("inputs"), list) else _written(parsed)


def _arrays(path: Path) -> dict[str, "np.ndarray[Any, Any]"]:
    try:
        # Without pickle: an array of objects could run code.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except _BAD_ARRAYS as error:
        raise errors.InvalidArgument(
            f"{path.name} cannot be read: expected numpy.savez of arrays of numbers or texts", reason="BAD_EXAMPLE"
        ) from error


def _written(arrays: Mapping[str, Any]) -> bytes:
    inputs = []
    for name, values in arrays.items():
        array = _array(name, values)
        datatype = _DATATYPES.get(array.dtype.name, "BYTES")
        inputs.append({"name": name, "datatype": datatype, "shape": list(array.shape), "data": _flat(array)})
    return json.dumps({"inputs": inputs}).encode()


def _array(name: str, values: Any) -> "np.ndarray[Any, Any]":
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise errors.InvalidArgument(f"input {name!r} of the example is no array", reason="BAD_EXAMPLE") from error
    is_text = array.dtype.kind in "US" or (
        array.dtype.kind == "O" and all(isinstance(text, str | bytes) for text in array.reshape(-1).tolist())
    )
    if array.dtype.name not in _DATATYPES and not is_text:
        raise errors.InvalidArgument(
            f"input {name!r} of the example is {array.dtype.name}: expected numbers, truth values or texts",
            reason="BAD_EXAMPLE",
        )
    return array


def _flat(array: "np.ndarray[Any, Any]") -> list[Any]:
    flat: list[Any] = array.reshape(-1).tolist()
    return [value.decode(errors="replace") if isinstance(value, bytes) else value for value in flat]


def _existing(path: str | Path) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise errors.InvalidArgument(f"{found} is no file", reason="FILE_NOT_FOUND")
    return found
