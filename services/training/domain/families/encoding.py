"""Raw columns to numbers, twice the same: in numpy for training, and as nodes of the ONNX graph for serving.

Numbers stand first, in the order int64, double, bool; then one code a categorical column. A code is an index into the
known values of all categorical columns together; one that is unknown has the index behind the last.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Array, Column

_ONNX_TYPES = {
    "INT64": TensorProto.INT64,
    "FP64": TensorProto.DOUBLE,
    "BOOL": TensorProto.BOOL,
    "BYTES": TensorProto.STRING,
}
_NUMERIC_ORDER = ("INT64", "FP64", "BOOL")
# Stands between a column's index and a value, so that the same text in two columns is two keys.
_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Encoded:
    """Rows as numbers.

    Args:
        numbers: (rows, numeric columns) float64; NaN where missing.
        codes: (rows, categorical columns) int64.
    """

    numbers: Array
    codes: Array


class Encoding:
    """The encoding of a model's columns.

    Args:
        columns: the inputs, in the table's order.
    """

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self.columns = columns
        self.numeric = tuple(column for datatype in _NUMERIC_ORDER for column in columns if column.datatype == datatype)
        self.categorical = tuple(column for column in columns if column.kind == "categorical")
        self.keys = tuple(
            f"{index}{_SEPARATOR}{value}"
            for index, column in enumerate(self.categorical)
            for value in column.categories
        )

    @property
    def unknown(self) -> int:
        """The code of a value that training did not see."""
        return len(self.keys)

    def encode(self, table: pa.Table) -> Encoded:
        """Return a table's rows as numbers.

        Raises:
            InvalidArgument: a column lacks, does not convert, or holds an infinity.
        """
        missing = [column.name for column in self.columns if column.name not in table.column_names]
        if missing:
            raise InvalidArgument(f"the table lacks the columns {', '.join(missing)}", reason="COLUMN_MISSING")
        numbers = [_numbers(table.column(column.name), column.name) for column in self.numeric]
        places = {key: place for place, key in enumerate(self.keys)}
        codes = [
            np.array(
                [
                    places.get(f"{index}{_SEPARATOR}{'' if value is None else value}", self.unknown)
                    for value in table.column(column.name).to_pylist()
                ],
                dtype=np.int64,
            )
            for index, column in enumerate(self.categorical)
        ]
        rows = table.num_rows
        return Encoded(
            np.stack(numbers, axis=1) if numbers else np.empty((rows, 0)),
            np.stack(codes, axis=1) if codes else np.empty((rows, 0), dtype=np.int64),
        )

    def graph_inputs(self) -> list[ValueInfoProto]:
        """Return the graph's inputs: one a column, shape (rows, 1), in the table's order."""
        return [
            helper.make_tensor_value_info(column.name, _ONNX_TYPES[column.datatype], [None, 1])
            for column in self.columns
        ]

    def add_numbers(self, graph: "Graph", dtype: int) -> str:
        """Add the nodes that give the numbers, (rows, numeric columns) of an ONNX type; return their name."""
        parts = []
        for datatype in _NUMERIC_ORDER:
            names = [column.name for column in self.numeric if column.datatype == datatype]
            if not names:
                continue
            joined = graph.add("Concat", names, axis=1) if len(names) > 1 else names[0]
            parts.append(joined if _ONNX_TYPES[datatype] == dtype else graph.add("Cast", [joined], to=dtype))
        return graph.add("Concat", parts, axis=1) if len(parts) > 1 else parts[0]

    def add_codes(self, graph: "Graph", values: Mapping[str, Any]) -> str:
        """Add the nodes that map each categorical value, (rows, categorical columns); return their name.

        Args:
            graph: the graph.
            values: the LabelEncoder attributes that say what a key becomes: values_int64s and default_int64, say.
        """
        names = [column.name for column in self.categorical]
        joined = graph.add("Concat", names, axis=1) if len(names) > 1 else names[0]
        # One look-up for all columns: a value is told from the same text in another column by its column's index.
        prefixes = graph.constant(np.array([[f"{index}{_SEPARATOR}" for index in range(len(names))]], dtype=object))
        keyed = graph.add("StringConcat", [prefixes, joined])
        return graph.add("LabelEncoder", [keyed], domain="ai.onnx.ml", keys_strings=list(self.keys), **values)


class Graph:
    """An ONNX graph in the making."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def add(self, operator: str, inputs: list[str], *, output: str = "", domain: str = "", **attributes: Any) -> str:
        """Add a node; return its output's name."""
        output = output or f"_{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def constant(self, value: Array) -> str:
        """Add a constant; return its name."""
        name = f"_constant_{len(self.initializers)}"
        if value.dtype == object:
            content = [str(item).encode() for item in value.reshape(-1)]
            tensor = helper.make_tensor(name, TensorProto.STRING, list(value.shape), content)
        else:
            tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.initializers.append(tensor)
        return name

    def build(self, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> bytes:
        """Return the serialised model."""
        graph = helper.make_graph(self.nodes, "lepton", inputs, outputs, self.initializers)
        # Opset 20 has StringConcat; ai.onnx.ml 3 has double trees.
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
        model = helper.make_model(graph, producer_name="lepton", opset_imports=opsets, ir_version=9)
        return bytes(model.SerializeToString(deterministic=True))


def _numbers(column: pa.ChunkedArray, name: str) -> Array:
    try:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidArgument(
            f"column {name!r} holds {column.type} values where training had numbers", reason="COLUMN_TYPE"
        ) from error
    if np.isinf(values).any():
        raise InvalidArgument(f"column {name!r} holds an infinity", reason="INFINITE_VALUE")
    return values
