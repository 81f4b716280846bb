"""Reads what pretrained weights say of themselves, and no more: the headers of safetensors, and JSON, within limits.

Source of the format: https://github.com/huggingface/safetensors (a length, a JSON header, the tensors' bytes).
"""

import hashlib
import json
import math
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from services.registry.verifier.refusal import Refused

_PIECE_BYTES = 1 << 20
# A vocabulary of 250,000 pieces takes 17 MB.
_MOST_JSON_BYTES = 64 << 20
_MOST_HEADER_BYTES = 16 << 20
_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
_DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
}


def check_files(files: list[dict[str, Any]], source: BinaryIO) -> dict[str, str]:
    """Read files that come one behind the other; return the SHA-256 of each by name.

    Args:
        files: name and size_bytes of each.
        source: their bytes.

    Raises:
        Refused: one is not what its name says.
    """
    return {file["name"]: _check_file(file["name"], int(file["size_bytes"]), source) for file in files}


def _check_file(name: str, size: int, source: BinaryIO) -> str:
    digest = hashlib.sha256()
    left = size

    def read(count: int) -> bytes:
        nonlocal left
        content = source.read(min(count, left))
        left -= len(content)
        digest.update(content)
        if len(content) < count:
            raise Refused("WEIGHTS_UNREADABLE", f"{name} ends too early")
        return content

    if name.endswith(".json"):
        _check_json(name, size, read)
    else:
        _check_safetensors(name, size, read)
    while left:
        read(min(_PIECE_BYTES, left))
    return digest.hexdigest()


def _check_json(name: str, size: int, read: Callable[[int], bytes]) -> None:
    if size > _MOST_JSON_BYTES:
        raise Refused("WEIGHTS_UNREADABLE", f"{name} has {size:,} bytes, at most {_MOST_JSON_BYTES:,} are read")
    if not isinstance(_parsed(name, read(size)), dict):
        raise Refused("WEIGHTS_UNREADABLE", f"{name} holds no JSON object")


def _check_safetensors(name: str, size: int, read: Callable[[int], bytes]) -> None:
    if size < _LENGTH.size:
        raise Refused("WEIGHTS_UNREADABLE", f"{name} is no safetensors file: it is too short")
    (length,) = _LENGTH.unpack(read(_LENGTH.size))
    if length > min(_MOST_HEADER_BYTES, size - _LENGTH.size):
        raise Refused("WEIGHTS_UNREADABLE", f"{name} is no safetensors file: its header cannot be that long")
    header = _parsed(name, read(length))
    if not isinstance(header, dict):
        raise Refused("WEIGHTS_UNREADABLE", f"{name} is no safetensors file: its header is no JSON object")
    tensors = {key: value for key, value in header.items() if key != _METADATA}
    if not tensors:
        raise Refused("WEIGHTS_UNREADABLE", f"{name} holds no tensor")
    spans = sorted(_span(name, key, value) for key, value in tensors.items())
    # Without gaps and to the end: nothing is hidden behind tensors.
    ends = [0, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != size - _LENGTH.size - length:
        raise Refused("WEIGHTS_UNREADABLE", f"{name}: its tensors do not fill the file")


def _span(name: str, key: str, tensor: Any) -> tuple[int, int]:
    """Return where a tensor's bytes begin and end, behind the header."""
    try:
        begin, end = (int(offset) for offset in tensor["data_offsets"])
        shape = [int(size) for size in tensor["shape"]]
        bits = _DTYPE_BITS[tensor["dtype"]]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Refused("WEIGHTS_UNREADABLE", f"{name}: tensor {key[:100]!r} is not described") from error
    if begin < 0 or min(shape, default=0) < 0 or (end - begin) * 8 != math.prod(shape) * bits:
        raise Refused("WEIGHTS_UNREADABLE", f"{name}: tensor {key[:100]!r} has not the size that its shape needs")
    return begin, end


def _parsed(name: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused("WEIGHTS_UNREADABLE", f"{name} holds no JSON") from error
