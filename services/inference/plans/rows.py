"""Rows of a dataset as a graph's inputs. For the child alone: it loads pyarrow."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.inference.plans.quality import label_text
from services.inference.plans.wire import BROKEN, LENGTH
from services.inference.serving.model import NUMPY_TYPES

Array = np.ndarray[Any, Any]
Feed = dict[str, Array]

MOST_ROWS = 2000
_MOST_BYTES = 128 << 20
_HELD_OUT_FRACTION = 0.1


class Unusable(Exception):
    """The rows cannot be used; its text says why, for people."""


@dataclass(frozen=True)
class Tensor:
    """An input of a graph: its name, Open Inference datatype and shape, batch first, -1 for a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Rows that fit in one run: of the same length where a dimension is variable.

    Args:
        feed: by input, rows first.
        places: of its rows in the table.
    """

    feed: Feed
    places: Array


class Frames(io.RawIOBase):
    """A file of frames, each behind its length in four bytes; an empty one ends it.

    Args:
        source: where they come from.
    """

    def __init__(self, source: BinaryIO) -> None:
        super().__init__()
        self._source = source
        self._left = memoryview(b"")
        self._is_done = False

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; 0 at the end.

        Raises:
            Unusable: whoever sends them could not go on.
        """
        if not self._left and not self._is_done:
            self._left = memoryview(self._next())
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def skip(self) -> None:
        """Read what is left."""
        while not self._is_done:
            self._next()

    def _next(self) -> bytes:
        head = self._source.read(LENGTH.size)
        length = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else BROKEN
        self._is_done = length in (0, BROKEN)
        if length == BROKEN:
            raise Unusable("the evaluation data could not be read to its end")
        return self._source.read(length) if length else b""


def read_table(source: BinaryIO) -> pa.Table:
    """Return a whole table from frames."""
    frames = Frames(source)
    with pa.ipc.open_stream(pa.PythonFile(io.BufferedReader(frames), mode="r")) as reader:
        table = reader.read_all()
    frames.skip()
    return table


def read_places(source: BinaryIO, places: Array) -> pa.Table:
    """Return the rows at some places, ascending, of a table in frames; less where they would take too much memory."""
    chosen: list[pa.RecordBatch] = []
    start, size = 0, 0
    with pa.ipc.open_stream(pa.PythonFile(io.BufferedReader(Frames(source)), mode="r")) as reader:
        for batch in reader:
            within = places[(places >= start) & (places < start + batch.num_rows)] - start
            if len(within):
                part = batch.take(pa.array(within))
                size += part.nbytes
                chosen.append(part)
            start += batch.num_rows
            if size > _MOST_BYTES or start > places[-1]:
                break
        return pa.Table.from_batches(chosen, reader.schema)


def even_places(rows: int, most: int = MOST_ROWS) -> Array:
    """Return places spread evenly over some rows."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64)) if rows else np.empty(0, np.int64)


def held_out_places(rows: int, seed: int, labels: Sequence[str] | None, classes: Sequence[str]) -> Array:
    """Return the places of the rows that training held out, ascending.

    The same draw as services.training.domain.families.fitting.hold_out makes: a test holds both together.

    Args:
        rows: of the training dataset.
        seed: of the run.
        labels: of each row; None for values.
        classes: known to the model, in its order.
    """
    draw = np.random.default_rng(seed)
    groups = [np.arange(rows)]
    if labels is not None:
        found = np.array(labels, dtype=object)
        groups = [np.flatnonzero(found == label) for label in classes]
    chosen = np.zeros(rows, dtype=bool)
    for group in groups:
        chosen[draw.permutation(group)[: round(len(group) * _HELD_OUT_FRACTION)]] = True
    if rows and not chosen.any():
        chosen[draw.permutation(max(groups, key=len))[0]] = True
    return np.flatnonzero(chosen)


def thinned(places: Array, most: int = MOST_ROWS) -> Array:
    """Return some of the places, spread evenly."""
    return np.asarray(places[even_places(len(places), most)])


def texts_of(column: pa.ChunkedArray) -> list[str]:
    """Return labels, or values, as texts; empty where one lacks."""
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    return ["" if value is None else label_text(value) for value in column.to_pylist()]


def to_groups(table: pa.Table, inputs: Sequence[Tensor]) -> list[Group]:
    """Return a table's rows as a graph takes them: each input is a column of its name.

    A column holds one value a row, or as many as the input's other dimensions ask for: as a list, as a JSON list in a
    text, or spread over columns named after the input: x_0, x_1 and so on, row-major.

    Raises:
        Unusable: an input has no column, or one that does not convert.
    """
    rows = {tensor.name: _rows(_column(table, tensor), tensor) for tensor in inputs}
    by_shape: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for place in range(table.num_rows):
        by_shape.setdefault(tuple(found[place].shape for found in rows.values()), []).append(place)
    return [
        Group({name: np.stack([found[place] for place in places]) for name, found in rows.items()}, np.array(places))
        for places in by_shape.values()
    ]


def tiled(feed: Feed, rows: int) -> Feed:
    """Return as many rows, the given ones over and over."""
    return {name: np.take(values, np.arange(rows) % len(values), axis=0) for name, values in feed.items()}


def synthetic(inputs: Sequence[Tensor], limits: Mapping[str, int], free: int) -> Feed:
    """Return eight rows that stand for real ones: normal values, indexes within the tables that they look up, ones.

    Args:
        inputs: of the graph.
        limits: by input, the size of the table that it indexes.
        free: what a variable dimension is, the batch apart.
    """
    draw = np.random.default_rng(0)
    feed: Feed = {}
    for tensor in inputs:
        shape = (8, *(free if size < 0 else size for size in tensor.shape[1:]))
        kind = NUMPY_TYPES.get(tensor.datatype)
        if kind is None:
            feed[tensor.name] = np.full(shape, "a", dtype=object)
        elif tensor.datatype in ("FP16", "FP32", "FP64"):
            feed[tensor.name] = draw.standard_normal(shape).astype(kind)
        elif tensor.name in limits:
            feed[tensor.name] = draw.integers(0, limits[tensor.name], shape).astype(kind)
        else:
            # A mask of ones, say; zeros would hide everything.
            feed[tensor.name] = np.ones(shape, dtype=kind)
    return feed


def _column(table: pa.Table, tensor: Tensor) -> pa.Array:
    """Return an input's column, each row's values together."""
    if tensor.name in table.column_names:
        column = table.column(tensor.name).combine_chunks()
        is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
        return _parsed(column, tensor) if is_text and tensor.datatype != "BYTES" else column
    parts: list[Array] = []
    while (name := f"{tensor.name}_{len(parts)}") in table.column_names:
        parts.append(_values(table.column(name).combine_chunks(), Tensor(name, tensor.datatype, tensor.shape)))
    if not parts:
        raise Unusable(f"the evaluation data has no column {tensor.name!r}, which the model takes")
    return pa.FixedSizeListArray.from_arrays(pa.array(np.stack(parts, axis=1).reshape(-1)), len(parts))


def _parsed(column: pa.Array, tensor: Tensor) -> pa.Array:
    """Return the lists that texts spell in JSON."""
    try:
        return pa.array([json.loads(text) for text in column.to_pylist()])
    except (TypeError, ValueError) as error:
        raise Unusable(f"column {tensor.name!r} holds texts; the model takes {tensor.datatype}") from error


def _rows(column: pa.Array, tensor: Tensor) -> "Array | list[Array]":
    """Return each row of a column as the input takes it, without the batch."""
    dims = tensor.shape[1:]
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_list(column.type):
        values = _values(column, tensor)
        if any(size not in (1, -1) for size in dims):
            raise Unusable(f"column {tensor.name!r} holds one value a row; the model takes {list(tensor.shape)}")
        return values.reshape(-1, *(1 for _ in dims))
    if column.null_count:
        raise Unusable(f"column {tensor.name!r} lacks a value in {column.null_count} rows")
    counts = np.asarray(pc.list_value_length(column))
    flat = pc.list_flatten(column)
    while _is_list(flat.type):
        if len(set(counts.tolist())) > 1:
            raise Unusable(f"column {tensor.name!r} holds nested lists of different lengths")
        flat = pc.list_flatten(flat)
        counts = np.full(len(counts), len(flat) // max(1, len(counts)))
    parts = np.split(_values(flat, tensor), np.cumsum(counts)[:-1])
    try:
        return [part.reshape(dims) for part in parts]
    except ValueError as error:
        raise Unusable(f"column {tensor.name!r} does not fill the model's {list(tensor.shape)}") from error


def _values(column: pa.Array, tensor: Tensor) -> Array:
    if tensor.datatype == "BYTES":
        return np.array(pc.fill_null(column.cast(pa.string()), "").to_pylist(), dtype=object)
    kind = NUMPY_TYPES[tensor.datatype]
    is_fraction = tensor.datatype in ("FP16", "FP32", "FP64")
    if column.null_count and not is_fraction:
        raise Unusable(f"column {tensor.name!r} lacks a value in {column.null_count} rows")
    try:
        if tensor.datatype == "BOOL":
            return np.asarray(column.cast(pa.bool_()).to_numpy(zero_copy_only=False))
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            # As training reads them: microseconds since 1970-01-01T00:00:00Z.
            column = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
        wide = column.cast(pa.float64() if is_fraction else pa.int64(), safe=not is_fraction)
        return np.asarray(wide.to_numpy(zero_copy_only=False)).astype(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise Unusable(f"column {tensor.name!r} holds {column.type}; the model takes {tensor.datatype}") from error


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
