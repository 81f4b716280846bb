"""Weights in files other than the graph's (ONNX external data), given to ONNX Runtime from memory.

ONNX Runtime could open the files by itself. They are encrypted at rest, and a path in a graph may name any file.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from servicekit.onnx_graph import read_external

Weights = Mapping[str, bytes | bytearray]

# How protobuf writes the key of the entry that names an external tensor's file.
_MARK = b"\x0a\x08location\x12"

# ONNX Runtime takes a larger tensor as a value alone: read from a file in memory it would be part of a message.
_LARGE_BYTES = (1 << 31) - 1
_NUMPY = {
    "float": "<f4",
    "double": "<f8",
    "float16": "<f2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "?",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "int64": "<i8",
    "uint64": "<u8",
}


def give_weights(options: Any, content: bytes, weights: Weights) -> None:
    """Give files of weights to a session that is about to be opened; it copies what it needs.

    Args:
        options: the onnxruntime.SessionOptions.
        content: the graph.
        weights: the files by the names that the graph gives them.
    """
    if not weights:
        return
    import onnxruntime as ort

    sizes = [len(file) for file in weights.values()]
    options.add_external_initializers_from_files_in_memory(list(weights), list(weights.values()), sizes)
    names, values = [], []
    for tensor in read_external(content):
        kind = np.dtype(_NUMPY[tensor.element]) if tensor.element in _NUMPY else None
        count = math.prod(tensor.shape)
        if kind is None or tensor.location not in weights or count * kind.itemsize < _LARGE_BYTES:
            continue
        array = np.frombuffer(weights[tensor.location], kind, count, tensor.offset).reshape(tensor.shape)
        names.append(tensor.name)
        values.append(ort.OrtValue.ortvalue_from_numpy(array))
    if names:
        options.add_external_initializers(names, values)


def inline_inner(content: bytes, weights: Weights) -> bytes:
    """Return a graph whose tensors within nodes and subgraphs hold their own values.

    ONNX Runtime reads the graph's own initializers from files in memory, and all others from a disk alone.

    Args:
        content: the graph.
        weights: the files by the names that the graph gives them.
    """
    if not weights or content.count(_MARK) == len(read_external(content)):
        return content
    import onnx

    model = onnx.ModelProto.FromString(content)
    own = {tensor.name for tensor in read_external(content)}
    for tensor in all_tensors(model):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries.get("location") in weights and tensor.name not in own:
            offset = int(entries.get("offset") or 0)
            file = weights[entries["location"]]
            tensor.raw_data = bytes(file[offset : offset + int(entries.get("length") or len(file) - offset)])
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return bytes(model.SerializeToString())


def all_tensors(message: Any) -> Iterator[Any]:
    """Yield every TensorProto in a message of ONNX, however deep."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in value if field.is_repeated else (value,):
            if field.message_type.name == "TensorProto":
                yield item
            else:
                yield from all_tensors(item)
