"""Weights in files other than the graph's: which files it reads, and that these are files of its own version.

A graph may name any path, and a library that loads it opens that path. So every name must be a plain one and among the
version's files, and what it reads must lie within the file.
"""

import re
from collections.abc import Mapping
from typing import Any

from servicekit.onnx_weights import all_tensors
from services.registry.verifier.refusal import Refused

# Every external tensor names its file under this key.
_MARK = b"location"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+=-]{0,127}")
_REMEDY = (
    "save the model again with onnx.save(model, 'model.onnx', save_as_external_data=True, location='model.onnx.data') "
    "and upload both files"
)


def files_read(model: bytes, sizes: Mapping[str, int]) -> set[str]:
    """Return the names of the files that a graph reads.

    Args:
        model: the graph.
        sizes: bytes of each file of the version, by name.

    Raises:
        Refused: it reads another file, or beyond the end of one.
    """
    if _MARK not in model:
        return set()
    # Most models never come here: reading a graph twice costs time and memory.
    import onnx
    from google.protobuf.message import DecodeError

    try:
        parsed = onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise Refused("NOT_ONNX", "the file is not an ONNX model") from error
    return {
        _checked(tensor, sizes)
        for tensor in all_tensors(parsed)
        # Some exporters leave the enum out.
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data
    }


def _checked(tensor: Any, sizes: Mapping[str, int]) -> str:
    entries: dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    if not _PLAIN.fullmatch(name):
        raise Refused(
            "LOAD_FAILED",
            f"tensor {tensor.name[:100]!r} keeps its weights in other files by a path; expected the plain name of a "
            f"file of this version: {_REMEDY}",
        )
    if name not in sizes:
        raise Refused("LOAD_FAILED", f"the model keeps weights in other files: {name} is missing. Upload it, too")
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or sizes[name] - offset)
    except ValueError as error:
        raise Refused("LOAD_FAILED", f"tensor {tensor.name[:100]!r} has no valid place in {name}") from error
    if offset < 0 or length < 0 or offset + length > sizes[name]:
        raise Refused(
            "LOAD_FAILED",
            f"tensor {tensor.name[:100]!r} reads bytes {offset:,} to {offset + length:,} of {name}, which has "
            f"{sizes[name]:,}: the file is another or cut; {_REMEDY}",
        )
    return name
