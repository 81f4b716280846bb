"""Raw columns to numbers, twice the same: in numpy for training, and as nodes of the ONNX graph for serving.

Numbers come first, in the order int64, double, bool, then the calendar features of dates and times; then one code a
categorical column. A code is an index into the known values of all categorical columns together; one that is unknown
has the index behind the last.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from servicekit.errors import InvalidArgument
from services.training.domain.families.calendar import FEATURES, add_calendar_features, calendar_features
from services.training.domain.families.frame import Array, Column, columns_of, is_numeric, texts

_ONNX_TYPES = {
    "INT64": TensorProto.INT64,
    "FP64": TensorProto.DOUBLE,
    "BOOL": TensorProto.BOOL,
    "BYTES": TensorProto.STRING,
}
_ARROW_TYPES = {"INT64": pa.int64(), "FP64": pa.float64(), "BOOL": pa.bool_()}
_MEANINGS = {"INT64": "whole numbers", "FP64": "numbers", "BOOL": "booleans"}
_MEANINGS_OF_KINDS = {"temporal": "dates or times", "boolean": "booleans"}
_NUMERIC_ORDER = ("INT64", "FP64", "BOOL")
# Stands between a column's index and a value, so that the same text in two columns is two keys.
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Encoded:
    """Rows as numbers.

    Args:
        numbers: (rows, numbers) float64: numeric columns, then calendar features; NaN where missing.
        codes: (rows, categorical columns) int64.
    """

    numbers: Array
    codes: Array

    def __getitem__(self, places: Array | slice) -> "Encoded":
        return Encoded(self.numbers[places], self.codes[places])


class Encoding:
    """The encoding of a model's columns.

    Args:
        columns: the inputs, in the table's order.
    """

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self.columns = columns
        plain = [column for column in columns if column.kind != "temporal"]
        self.numeric = tuple(column for datatype in _NUMERIC_ORDER for column in plain if column.datatype == datatype)
        # Those that cannot be missing are int64, the others doubles.
        dates = [column for column in columns if column.kind == "temporal"]
        self.temporal = tuple(sorted(dates, key=lambda column: _NUMERIC_ORDER.index(column.datatype)))
        self.categorical = tuple(column for column in columns if column.kind == "categorical")
        self.keys = tuple(
            f"{index}{_SEPARATOR}{value}"
            for index, column in enumerate(self.categorical)
            for value in column.categories
        )

    @property
    def number_count(self) -> int:
        """How many numbers a row has."""
        return len(self.numeric) + len(FEATURES) * len(self.temporal)

    @property
    def has_missing_numbers(self) -> bool:
        """Whether a number may be missing."""
        return any(column.nullable for column in (*self.numeric, *self.temporal))

    @property
    def unknown(self) -> int:
        """The code of a value that training did not see."""
        return len(self.keys)

    def encode(self, table: pa.Table, *, refuse_unknown: bool = False) -> Encoded:
        """Return a normalised table's rows as numbers.

        Args:
            table: the rows.
            refuse_unknown: whether a category that is not known is an error.

        Raises:
            InvalidArgument: a column lacks, does not convert, holds an infinity, or misses a value where training
                had all.
        """
        found = columns_of(table)
        lacking = [column.name for column in self.columns if column.name not in found]
        if lacking:
            raise InvalidArgument(f"the table lacks the columns {', '.join(lacking)}", reason="COLUMN_MISSING")
        numbers = [_numbers(found[column.name], column).reshape(-1, 1) for column in self.numeric]
        if self.temporal:
            numbers.append(self._calendar(found))
        codes = []
        start = 0
        for column in self.categorical:
            places = _places(found[column.name], column, refuse_unknown=refuse_unknown)
            codes.append(np.where(places < 0, self.unknown, places + start))
            start += len(column.categories)
        rows = table.num_rows
        return Encoded(
            np.concatenate(numbers, axis=1) if numbers else np.empty((rows, 0)),
            np.stack(codes, axis=1) if codes else np.empty((rows, 0), dtype=np.int64),
        )

    def graph_inputs(self) -> list[ValueInfoProto]:
        """Return the graph's inputs: one a column, shape (rows, 1), in the table's order."""
        return [
            helper.make_tensor_value_info(column.name, _ONNX_TYPES[column.datatype], [None, 1])
            for column in self.columns
        ]

    def add_numbers(self, graph: "Graph", dtype: int) -> str:
        """Add the nodes that give the numbers, (rows, numbers) of an ONNX type; return their name."""
        parts = []
        for datatype in _NUMERIC_ORDER:
            names = [column.name for column in self.numeric if column.datatype == datatype]
            if not names:
                continue
            joined = graph.add("Concat", names, axis=1) if len(names) > 1 else names[0]
            parts.append(joined if _ONNX_TYPES[datatype] == dtype else graph.add("Cast", [joined], to=dtype))
        if self.temporal:
            whole, fractional = (
                [column.name for column in self.temporal if column.datatype == datatype]
                for datatype in ("INT64", "FP64")
            )
            calendar = add_calendar_features(graph, whole, fractional, self._origins)
            parts.append(calendar if dtype == TensorProto.DOUBLE else graph.add("Cast", [calendar], to=dtype))
        return graph.add("Concat", parts, axis=1) if len(parts) > 1 else parts[0]

    @property
    def _origins(self) -> Array:
        return np.array([column.origin for column in self.temporal], dtype=np.int64)

    def _calendar(self, found: Mapping[str, pa.ChunkedArray]) -> Array:
        values = [wire_values(found[column.name], column) for column in self.temporal]
        missing = np.stack([np.isnan(moments) for moments in values], axis=1)
        known = [np.where(np.isnan(moments), 0, moments).astype(np.int64) for moments in values]
        return calendar_features(np.stack(known, axis=1), missing, self._origins)

    def add_codes(self, graph: "Graph", values: Array) -> str:
        """Add the nodes that map each categorical value, (rows, categorical columns); return their name.

        Args:
            graph: the graph.
            values: (keys + 1,) what each key becomes, int64 or float64; the last for unknown ones.
        """
        names = [column.name for column in self.categorical]
        joined = graph.add("Concat", names, axis=1) if len(names) > 1 else names[0]
        # One look-up for all columns: a value is told from the same text in another column by its column's index.
        prefixes = graph.constant(np.array([[f"{index}{_SEPARATOR}" for index in range(len(names))]], dtype=object))
        keyed = graph.add("StringConcat", [prefixes, joined])
        return graph.add(
            "LabelEncoder",
            [keyed],
            domain="ai.onnx.ml",
            keys_tensor=_string_tensor("keys", [len(self.keys)], self.keys),
            values_tensor=numpy_helper.from_array(values[:-1], "values"),
            default_tensor=numpy_helper.from_array(values[-1:], "default"),
        )


class Graph:
    """An ONNX graph in the making.

    Args:
        taken: the names of its inputs and outputs, which no inner value may bear.
    """

    def __init__(self, taken: Collection[str] = ()) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._prefix = "_"
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix += "_"

    def add(
        self,
        operator: str,
        inputs: list[str],
        *,
        output: str = "",
        domain: str = "",
        skipped: int = 0,
        **attributes: Any,
    ) -> str:
        """Add a node; return the name of its output, the first one behind those that are skipped."""
        output = output or f"{self._prefix}{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [""] * skipped + [output], domain=domain, **attributes))
        return output

    def constant(self, value: Array) -> str:
        """Add a constant; return its name."""
        name = f"{self._prefix}constant_{len(self.initializers)}"
        if value.dtype == object:
            tensor = _string_tensor(name, list(value.shape), [str(item) for item in value.reshape(-1)])
        else:
            tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
        self.initializers.append(tensor)
        return name

    def build(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> bytes:
        """Return the serialised model."""
        graph = helper.make_graph(self.nodes, "lepton", inputs, outputs, self.initializers)
        # Opset 20 has StringConcat; ai.onnx.ml 5 has trees that give doubles.
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 5)]
        model = helper.make_model(graph, producer_name="lepton", opset_imports=opsets, ir_version=10)
        return bytes(model.SerializeToString(deterministic=True))


def wire_values(column: pa.ChunkedArray, wanted: Column) -> Array:
    """Return a normalised column as the input takes it on the wire, shape (rows,).

    Raises:
        InvalidArgument: it does not convert, or misses a value where training had all.
    """
    if wanted.datatype == "BYTES":
        return np.array(_texts(column, wanted).to_pylist(), dtype=object)
    _check_complete(column, wanted)
    if not _is_of_kind(column.type, wanted):
        raise _wrong_type(column, wanted)
    if wanted.kind == "temporal":
        column = column.cast(pa.int64())
    elif pa.types.is_boolean(column.type) and wanted.datatype == "FP64":
        column = column.cast(pa.int8())
    try:
        # Integers beyond 2**53 may round on their way to doubles; a fraction never becomes an integer.
        return np.asarray(column.cast(_ARROW_TYPES[wanted.datatype], safe=wanted.datatype != "FP64").to_numpy())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _wrong_type(column, wanted) from error


def _is_of_kind(kind: pa.DataType, wanted: Column) -> bool:
    """Return whether values of a normalised type are what a column had in training: Arrow would convert others."""
    if pa.types.is_null(kind):
        return True
    if wanted.kind == "temporal":
        return bool(pa.types.is_timestamp(kind))
    if wanted.kind == "boolean":
        return bool(pa.types.is_boolean(kind))
    return is_numeric(kind)


def _wrong_type(column: pa.ChunkedArray, wanted: Column) -> InvalidArgument:
    meaning = _MEANINGS_OF_KINDS.get(wanted.kind) or _MEANINGS[wanted.datatype]
    return InvalidArgument(
        f"column {wanted.name!r} holds {column.type} values where training had {meaning}", reason="COLUMN_TYPE"
    )


def _numbers(column: pa.ChunkedArray, wanted: Column) -> Array:
    values = wire_values(column, wanted).astype(np.float64, copy=False)
    if np.isinf(values).any():
        raise InvalidArgument(f"column {wanted.name!r} holds an infinity", reason="INFINITE_VALUE")
    return values


def _texts(column: pa.ChunkedArray, wanted: Column) -> pa.ChunkedArray:
    # Whole numbers have one spelling; fractions, booleans and dates several, and training's is unknown.
    has_one_spelling = any(
        is_kind(column.type)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_null)
    )
    if not has_one_spelling:
        raise InvalidArgument(
            f"column {wanted.name!r} holds {column.type} values where training had texts: read it as text (import it "
            "with the column's type set to string)",
            reason="COLUMN_TYPE",
        )
    values = texts(column)
    if not wanted.nullable:
        _check_complete(pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values), wanted)
    return values


def _places(column: pa.ChunkedArray, wanted: Column, *, refuse_unknown: bool) -> Array:
    """Return each row's index among a column's categories; -1 for an unknown one."""
    values = _texts(column, wanted)
    places = pc.index_in(values, value_set=pa.array(wanted.categories, pa.string()))
    if refuse_unknown and places.null_count:
        row = int(np.flatnonzero(places.is_null().to_numpy())[0])
        raise InvalidArgument(
            f"column {wanted.name!r} holds a category in row {row + 1} that training did not see, and the model's rule "
            "for unknown categories is error",
            reason="UNKNOWN_CATEGORY",
        )
    return np.asarray(places.fill_null(-1).to_numpy()).astype(np.int64)


def _check_complete(column: pa.ChunkedArray, wanted: Column) -> None:
    if column.null_count and not wanted.nullable:
        raise InvalidArgument(
            f"column {wanted.name!r} lacks a value in {column.null_count} of {len(column)} rows, and training had "
            "one in every row",
            reason="MISSING_VALUE",
        )


def _string_tensor(name: str, shape: list[int], values: Sequence[str]) -> TensorProto:
    # Not by helper.make_tensor: that goes through numpy's bytes, which end before the last NULs.
    return TensorProto(
        name=name, data_type=TensorProto.STRING, dims=shape, string_data=[value.encode() for value in values]
    )
