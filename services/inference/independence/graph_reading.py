"""An ONNX file without its weights: what the analysis needs of it, in memory that does not grow with the weights."""

import contextlib
from collections.abc import Iterator
from typing import Any

_GRAPH, _INITIALIZER = 7, 5
# Of a TensorProto: float_data, int32_data, string_data, int64_data, raw_data, double_data, uint64_data.
_CONTENTS = frozenset((4, 5, 6, 7, 9, 10, 11))
_SMALL_BYTES = 8192
_BYTES, _VARINT = 2, 0
_FIXED_BYTES = {1: 8, 5: 4}


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
        parts += (_key(_GRAPH), _varint(len(graph)), graph)
    return b"".join(parts)


def _graph_parts(graph: memoryview) -> Iterator[bytes | memoryview]:
    for number, whole, value in _fields(graph):
        if number != _INITIALIZER or value is None or len(value) <= _SMALL_BYTES:
            yield whole
            continue
        tensor = b"".join(field for place, field, _ in _fields(value) if place not in _CONTENTS)
        yield _key(_INITIALIZER)
        yield _varint(len(tensor))
        yield tensor


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview | None]]:
    """Yield each field of a message: its number, all of it, and its value where that is bytes with a length."""
    position = 0
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        kind, value = key & 7, None
        if kind == _BYTES:
            length, position = _read_varint(message, position)
            value, position = message[position : position + length], position + length
        elif kind == _VARINT:
            _, position = _read_varint(message, position)
        elif kind in _FIXED_BYTES:
            position += _FIXED_BYTES[kind]
        else:
            raise ValueError("a field of no known kind")
        if position > len(message):
            raise ValueError("a field that reaches beyond its message")
        yield key >> 3, message[start:position], value


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if position >= len(message):
            raise ValueError("a number that ends early")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("a number that is too long")


def _key(number: int) -> bytes:
    return _varint(number << 3 | _BYTES)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
