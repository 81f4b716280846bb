"""An ONNX file without its weights: what the analysis needs of it, in memory that does not grow with the weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

from servicekit.protobuf_fields import BYTES, encode_varint, read_fields

_GRAPH, _INITIALIZER = 7, 5
# Of a TensorProto: float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data.
_CONTENTS = frozenset((4, 5, 6, 7, 9, 10, 11))
_SMALL_BYTES = 8192


def read_model(content: bytes) -> Any:
    """Return an onnx.ModelProto whose larger initializers have names, types and shapes, and no contents.

    Raises:
        ValueError: the file is no protobuf message.
        google.protobuf.message.DecodeError: it is no ONNX model.
    """
    import onnx

    view = memoryview(content)
    model = onnx.ModelProto.FromString(content if len(view) < 1 << 20 else _without_contents(view))
    if model.functions:
        from onnx import inliner

        # What cannot be inlined is not in the table of rules, and so not shown to be independent.
        with contextlib.suppress(Exception):
            model = inliner.inline_local_functions(model)
    return model


def _without_contents(model: memoryview) -> bytes:
    parts: list[bytes | memoryview] = []
    for number, whole, value in _fields(model):
        if number != _GRAPH or value is None:
            parts.append(whole)
            continue
        graph = b"".join(_graph_parts(value))
        parts += (_key(_GRAPH), encode_varint(len(graph)), graph)
    return b"".join(parts)


def _graph_parts(graph: memoryview) -> Iterator[bytes | memoryview]:
    for number, whole, value in _fields(graph):
        if number != _INITIALIZER or value is None or len(value) <= _SMALL_BYTES:
            yield whole
            continue
        tensor = b"".join(field for place, field, _ in _fields(value) if place not in _CONTENTS)
        yield _key(_INITIALIZER)
        yield encode_varint(len(tensor))
        yield tensor


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Yield each field of a message: its number, all of it, and its value where that is bytes with a length."""
    position = 0
    for number, kind, start, stop in read_fields(message, 0, len(message)):
        yield number, message[position:stop], message[start:stop] if kind == BYTES else None
        position = stop


def _key(number: int) -> bytes:
    return encode_varint(number << 3 | BYTES)
