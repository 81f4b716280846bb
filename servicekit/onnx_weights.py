"""Weights that lie in files beside a graph (ONNX external data), given to ONNX Runtime from memory.

ONNX Runtime could open the files by itself. They are encrypted at rest, and a path in a graph may name any file.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from servicekit.onnx_graph import read_external

Weights = Mapping[str, bytes | bytearray]

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
