"""Sample requests of a graph without an example: sizes and values that most graphs take.

A graph says little of what it takes. So several requests are tried, from the likeliest on: dimensions of one name have
one size in every input, sequences and images get usual sizes, integers are small enough to be an index.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from servicekit.brain_floats import BRAIN_FLOAT

Array = np.ndarray[Any, Any]

# A size, what the graph calls it, or None for a variable dimension without a name.
Dimension = int | str | None

_NUMPY: dict[str, Any] = {"BF16": BRAIN_FLOAT, "BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
_BATCH = re.compile(r"n|b|bs|batch.*|.*_?batch(_?size)?|num_?(rows|samples)|rows|samples|unk__0", re.IGNORECASE)
_SEQUENCE = re.compile(r".*(seq|len|time|step|token|frame|sample|word|char|past|context|audio|length).*", re.IGNORECASE)
_IMAGE = re.compile(r".*(height|width|rows|cols|image|pixel).*|h|w", re.IGNORECASE)
# Ends the name of a dimension that counts a sequence's items, or all their rows: a size of its own, and no batch.
RAGGED = "__lepton_ragged"
_SEQUENCE_SIZE, _IMAGE_SIZE = 8, 64
# What the variable dimensions besides the batch are, try after try; None leaves each its usual size.
_SIZES = (None, 1, 16, 224, 512)
_VALUES = (1, 0)
_MOST_ELEMENTS = 1 << 26


@dataclass(frozen=True)
class SampleInput:
    """An input to make samples of.

    Args:
        name, datatype: by Open Inference's names.
        shape: its dimensions; None where the graph gives no rank.
        text: what an input of texts takes; empty where unknown.
    """

    name: str
    datatype: str
    shape: tuple[Dimension, ...] | None
    text: str = ""


def batch_dimension(inputs: Sequence[SampleInput]) -> str:
    """Return the name of the dimension that counts rows: the one that is first in most inputs, or is called so.

    Empty where no dimension with a name is.
    """
    first = Counter(item.shape[0] for item in inputs if item.shape and _is_named(item.shape[0]))
    names = {size for item in inputs for size in item.shape or () if isinstance(size, str) and _is_named(size)}
    by_convention = sorted(name for name in names if _BATCH.fullmatch(name))
    for name, _ in first.most_common():
        if name in by_convention:
            return str(name)
    if by_convention:
        return by_convention[0]
    return str(first.most_common(1)[0][0]) if first else ""


def _is_named(size: Dimension) -> bool:
    return isinstance(size, str) and not size.endswith(RAGGED)


def has_rows(inputs: Sequence[SampleInput]) -> bool:
    """Return whether requests of another number of rows can be made."""
    if batch_dimension(inputs):
        return True
    return any(item.shape and item.shape[0] is None for item in inputs)


def samples(inputs: Sequence[SampleInput], rows: int = 1) -> Iterator[dict[str, Array]]:
    """Yield requests to try, the likeliest first; ten at most, without repeats.

    Args:
        inputs: of the graph.
        rows: size of the dimension that counts rows.
    """
    tried: set[tuple[Any, ...]] = set()
    batch = batch_dimension(inputs)
    for size in _SIZES:
        shapes = {item.name: _shape(item, batch, rows, size) for item in inputs}
        if sum(_elements(shape) for shape in shapes.values()) > _MOST_ELEMENTS:
            continue
        for value in _VALUES:
            kinds = {item.datatype[:3] in ("INT", "UIN") for item in inputs}
            key = (tuple(shapes.items()), value if True in kinds else None)
            if key not in tried:
                tried.add(key)
                yield {item.name: _values(item, shapes[item.name], value) for item in inputs}


def with_rows(sample: Mapping[str, Array], inputs: Sequence[SampleInput], rows: int) -> dict[str, Array]:
    """Return a sample with its first row, along the dimension that counts rows, repeated.

    Args:
        sample: of these inputs.
        inputs: of the graph.
        rows: how many.
    """
    batch = batch_dimension(inputs)
    return {item.name: _repeated(sample[item.name], _row_axis(item, batch), rows) for item in inputs}


def _row_axis(item: SampleInput, batch: str) -> int | None:
    if item.shape and batch in item.shape and batch:
        return item.shape.index(batch)
    return 0 if item.shape and item.shape[0] is None else None


def _repeated(array: Array, axis: int | None, rows: int) -> Array:
    if axis is None or axis >= array.ndim or not array.shape[axis]:
        return array
    return np.repeat(np.take(array, [0], axis=axis), rows, axis=axis)


def _shape(item: SampleInput, batch: str, rows: int, size: int | None) -> tuple[int, ...]:
    if item.shape is None:
        # Of unknown rank: a matrix of one row is what most operators take.
        return (rows, 1) if size is None else (rows, size)
    return tuple(_size(item.shape, axis, batch, rows, size) for axis in range(len(item.shape)))


def _size(shape: tuple[Dimension, ...], axis: int, batch: str, rows: int, size: int | None) -> int:
    dimension = shape[axis]
    if isinstance(dimension, int) and dimension >= 0:
        return dimension
    if dimension == batch and batch:
        return rows
    if dimension is None and axis == 0:
        return rows
    if isinstance(dimension, str) and dimension.endswith(RAGGED):
        return 1
    if size is not None:
        return size
    name = dimension if isinstance(dimension, str) else ""
    if _SEQUENCE.fullmatch(name):
        return _SEQUENCE_SIZE
    if _IMAGE.fullmatch(name) or (len(shape) == 4 and axis >= 1 and _is_channels(shape[1 if axis > 1 else 3])):
        return _IMAGE_SIZE
    return 1 if name else _SEQUENCE_SIZE if len(shape) <= 3 and axis > 0 else 1


def _is_channels(size: Dimension) -> bool:
    return size in (1, 3, 4)


def _values(item: SampleInput, shape: tuple[int, ...], value: int) -> Array:
    if item.datatype == "BYTES":
        return np.full(shape, item.text or "a", dtype=object)
    kind = np.dtype(_NUMPY.get(item.datatype, item.datatype.lower()))
    # Numbers with a fraction are no special case of anything; of truth values True is the mask that keeps all.
    return np.ones(shape, kind) if kind.kind in "fb" else np.full(shape, value, dtype=kind)


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
