"""What an ONNX file says of its inputs and outputs, and the rewriting of ZipMap, without the onnx package.

The package takes half a second and 40 MB to load, and a worker that serves needs neither. A graph is read by protobuf's
wire format: fields that are not needed, weights above all, are skipped by their length.
Source of the field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from servicekit.protobuf_fields import BYTES, VARINT, Field, NotAMessage, encode_varint, read_fields, read_varint

# Field numbers, by message.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_TENSOR_DIMENSION, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 2, 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE = 1, 2, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTS, _ATTRIBUTE_STRINGS = 1, 8, 9
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_KINDS = {1: "tensor", 4: "sequence", 5: "map", 7: "opaque", 8: "sparse_tensor", 9: "optional"}
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_DIMENSION = 1
_DIMENSION_VALUE, _DIMENSION_NAME = 1, 2
_FLOAT = 1

_ZIP_MAP = b"ZipMap"
# TensorProto.DataType by number.
_ELEMENTS = (
    "undefined",
    "float",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "string",
    "bool",
    "float16",
    "double",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
    "bfloat16",
    "float8e4m3fn",
    "float8e4m3fnuz",
    "float8e5m2",
    "float8e5m2fnuz",
    "uint4",
    "int4",
    "float4e2m1",
    "float8e8m0",
    "uint2",
    "int2",
)


class NotAGraph(ValueError):
    """The bytes are no ONNX model."""


@dataclass(frozen=True)
class GraphValue:
    """An input or output as the file declares it.

    Args:
        name: in the graph.
        kind: tensor, sequence, map, optional, sparse_tensor or opaque; empty where the file does not say.
        element: of a tensor: float, int64, bfloat16, ...; empty where unknown.
        shape: a size, a name or None for each dimension; None where the rank is not given.
    """

    name: str
    kind: str
    element: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        """Return its type as ONNX Runtime writes it."""
        return f"{self.kind or 'unknown'}({self.element})" if self.kind in ("", "tensor") else self.kind


@dataclass(frozen=True)
class GraphValues:
    """What a graph takes and gives.

    Args:
        inputs: without those that have a default (an initializer).
        outputs: in the graph's order.
    """

    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]


@dataclass(frozen=True)
class ExternalTensor:
    """An initializer whose values are in another file.

    Args:
        name: in the graph.
        element: float, int64, ...
        shape: its dimensions.
        location: the file.
        offset: where it begins in there, bytes.
    """

    name: str
    element: str
    shape: tuple[int, ...]
    location: str
    offset: int


@dataclass(frozen=True)
class Unzipped:
    """A graph whose ZipMap outputs became tensors.

    Args:
        content: the graph; the same object where there was nothing to do.
        labels: by output, the classes of the last dimension of its tensor.
    """

    content: bytes
    labels: dict[str, tuple[str, ...]]


def read_values(content: bytes) -> GraphValues:
    """Return a graph's inputs and outputs as its file declares them.

    Raises:
        NotAGraph: the bytes are no ONNX model.
    """
    with _reading():
        view = memoryview(content)
        graph = _graph_of(view)
        fields = [field for field in read_fields(view, *graph[2:]) if field[1] == BYTES]
        defaults = {_text(view, _TENSOR_NAME, field) for field in fields if field[0] == _GRAPH_INITIALIZER}
        inputs = [_value(view, field) for field in fields if field[0] == _GRAPH_INPUT]
        outputs = [_value(view, field) for field in fields if field[0] == _GRAPH_OUTPUT]
        return GraphValues(tuple(item for item in inputs if item.name not in defaults), tuple(outputs))


def read_external(content: bytes) -> list[ExternalTensor]:
    """Return a graph's initializers whose values are in other files.

    Raises:
        NotAGraph: the bytes are no ONNX model.
    """
    with _reading():
        view = memoryview(content)
        found = []
        for field in _inner(view, _graph_of(view), _GRAPH_INITIALIZER):
            entries = {
                _text(view, _ENTRY_KEY, entry): _text(view, _ENTRY_VALUE, entry)
                for entry in _inner(view, field, _TENSOR_EXTERNAL)
            }
            if entries:
                number = _number(view, _TENSOR_TYPE, field) or 0
                shape = tuple(size for item in _inner(view, field, _TENSOR_DIMENSION) for size in _numbers(view, item))
                element = _ELEMENTS[number] if number < len(_ELEMENTS) else str(number)
                location, offset = entries.get("location", ""), int(entries.get("offset") or 0)
                found.append(ExternalTensor(_text(view, _TENSOR_NAME, field), element, shape, location, offset))
        return found


def unzip_maps(content: bytes) -> Unzipped:
    """Replace each ZipMap that gives an output of the graph by the tensor that it reads, under the output's name.

    scikit-learn's converters end classifiers in a ZipMap: a list of maps from label to probability, which no request or
    reply can carry. The tensor before it, (rows, classes), holds the same numbers.

    Raises:
        NotAGraph: the bytes are no ONNX model.
    """
    if _ZIP_MAP not in content:
        return Unzipped(content, {})
    with _reading():
        view = memoryview(content)
        graph = _graph_of(view)
        values = read_values(content)
        labels: dict[str, tuple[str, ...]] = {}
        changed: dict[Field, bytes] = {}
        fields = list(read_fields(view, *graph[2:]))
        outputs = {item.name for item in values.outputs}
        for field in fields:
            if field[:2] == (_GRAPH_NODE, BYTES) and _text(view, _NODE_OPERATOR, field) == "ZipMap":
                name = _text(view, _NODE_OUTPUT, field)
                if name in outputs:
                    labels[name] = _labels(view, field)
                    changed[field] = _identity(_text(view, _NODE_INPUT, field), name)
        batch = _batch_name(values)
        for field in fields:
            if field[:2] == (_GRAPH_OUTPUT, BYTES) and (name := _text(view, _VALUE_NAME, field)) in labels:
                changed[field] = _float_matrix(name, batch, len(labels[name]))
        if not labels:
            return Unzipped(content, {})
        return Unzipped(_spliced(view, graph, fields, changed), labels)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turn what broken bytes raise into NotAGraph."""
    try:
        yield
    except NotAGraph:
        raise
    except NotAMessage as error:
        raise NotAGraph(str(error)) from error
    except (IndexError, ValueError) as error:
        raise NotAGraph("the bytes are no ONNX model") from error


def _graph_of(view: memoryview) -> Field:
    # Protobuf merges the parts of a repeated field; no exporter writes that.
    found = [field for field in read_fields(view, 0, len(view)) if field[:2] == (_MODEL_GRAPH, BYTES)]
    if len(found) != 1:
        raise NotAGraph("the file has no graph")
    return found[0]


def _inner(view: memoryview, outer: Field, number: int) -> list[Field]:
    return [field for field in read_fields(view, *outer[2:]) if field[0] == number]


def _text(view: memoryview, number: int, outer: Field) -> str:
    """Return the first text of a number within a field; empty where there is none."""
    for field in read_fields(view, *outer[2:]):
        if field[:2] == (number, BYTES):
            return bytes(view[field[2] : field[3]]).decode()
    return ""


def _number(view: memoryview, number: int, outer: Field) -> int | None:
    found = [read_varint(view, field[2])[0] for field in _inner(view, outer, number) if field[1] == VARINT]
    return found[-1] if found else None


def _value(view: memoryview, field: Field) -> GraphValue:
    name, kind, element = _text(view, _VALUE_NAME, field), "", ""
    shape: tuple[int | str | None, ...] | None = None
    for declared in _inner(view, field, _VALUE_TYPE):
        for item in read_fields(view, *declared[2:]):
            if item[0] in _TYPE_KINDS:
                kind = _TYPE_KINDS[item[0]]
                if kind == "tensor":
                    element, shape = _element(view, item), _shape(view, item)
    return GraphValue(name, kind, element, shape)


def _element(view: memoryview, tensor: Field) -> str:
    number = _number(view, _TENSOR_ELEMENT, tensor) or 0
    return _ELEMENTS[number] if number < len(_ELEMENTS) else str(number)


def _shape(view: memoryview, tensor: Field) -> tuple[int | str | None, ...] | None:
    for shape in _inner(view, tensor, _TENSOR_SHAPE):
        return tuple(_dimension(view, item) for item in _inner(view, shape, _SHAPE_DIMENSION))
    return None


def _dimension(view: memoryview, field: Field) -> int | str | None:
    size = _number(view, _DIMENSION_VALUE, field)
    # Negative numbers take all 64 bits.
    return size if size is not None and size < 1 << 63 else _text(view, _DIMENSION_NAME, field) or None


def _batch_name(values: GraphValues) -> str:
    """Return what the first input calls its first dimension; empty where it has no name."""
    for item in values.inputs:
        if item.shape and isinstance(item.shape[0], str):
            return item.shape[0]
    return ""


def _labels(view: memoryview, node: Field) -> tuple[str, ...]:
    for attribute in _inner(view, node, _NODE_ATTRIBUTE):
        name = _text(view, _ATTRIBUTE_NAME, attribute)
        if name == "classlabels_strings":
            found = _inner(view, attribute, _ATTRIBUTE_STRINGS)
            if found:
                return tuple(bytes(view[item[2] : item[3]]).decode() for item in found)
        if name == "classlabels_int64s":
            numbers = [number for item in _inner(view, attribute, _ATTRIBUTE_INTS) for number in _numbers(view, item)]
            if numbers:
                return tuple(str(number - (1 << 64) if number >> 63 else number) for number in numbers)
    return ()


def _numbers(view: memoryview, field: Field) -> Iterator[int]:
    """Yield the numbers of a repeated integer: packed, or one a field."""
    place = field[2]
    while place < field[3]:
        number, place = read_varint(view, place)
        yield number


def _encoded(number: int, kind: int, content: bytes) -> bytes:
    return encode_varint(number << 3 | kind) + (encode_varint(len(content)) if kind == BYTES else b"") + content


def _identity(source: str, target: str) -> bytes:
    parts = ((_NODE_INPUT, source), (_NODE_OUTPUT, target), (_NODE_OPERATOR, "Identity"))
    return b"".join(_encoded(number, BYTES, text.encode()) for number, text in parts)


def _float_matrix(name: str, rows: str, columns: int) -> bytes:
    """Return a ValueInfoProto of a FLOAT tensor (rows, columns); columns 0 for any."""
    first = _encoded(_DIMENSION_NAME, BYTES, rows.encode()) if rows else b""
    second = _encoded(_DIMENSION_VALUE, VARINT, encode_varint(columns)) if columns else b""
    shape = b"".join(_encoded(_SHAPE_DIMENSION, BYTES, size) for size in (first, second))
    tensor = _encoded(_TENSOR_ELEMENT, VARINT, encode_varint(_FLOAT)) + _encoded(_TENSOR_SHAPE, BYTES, shape)
    return _encoded(_VALUE_NAME, BYTES, name.encode()) + _encoded(_VALUE_TYPE, BYTES, _encoded(1, BYTES, tensor))


def _spliced(view: memoryview, graph: Field, fields: list[Field], changed: dict[Field, bytes]) -> bytes:
    """Return the model with some fields of its graph replaced."""
    parts: list[bytes | memoryview] = []
    place = graph[2]
    for field in fields:
        if field in changed:
            parts.append(_encoded(field[0], BYTES, changed[field]))
        else:
            parts.append(view[place : field[3]])
        place = field[3]
    size = sum(len(part) for part in parts)
    joined: list[bytes | memoryview] = []
    place = 0
    for field in read_fields(view, 0, len(view)):
        if field == graph:
            joined += [encode_varint(_MODEL_GRAPH << 3 | BYTES), encode_varint(size), *parts]
        else:
            joined.append(view[place : field[3]])
        place = field[3]
    return b"".join(joined)
