"""A table made ready for training: its input columns by kind, and what cannot be learned from refused."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument

Array = np.ndarray[Any, Any]

# The names of every model's outputs: no input may bear them, for a graph's names are unique.
OUTPUT_NAMES = ("prediction", "probabilities")


@dataclass(frozen=True)
class Column:
    """One input column as the model will ask for it.

    Args:
        name: as in the table.
        kind: numeric, boolean, categorical, text or series.
        datatype: Open Inference name on the wire: FP64, FP32, INT64, BOOL or BYTES.
        nullable: whether rows lacked a value; then NaN or an empty text means missing.
        categories: the known values, most frequent first, missing as the empty text; for categorical ones.
    """

    name: str
    kind: str
    datatype: str
    nullable: bool
    categories: tuple[str, ...] = ()


def normalize(table: pa.Table) -> pa.Table:
    """Return a table in few types: NaN as missing, decimals as doubles, dictionaries as what they stand for.

    Raises:
        InvalidArgument: two columns have the same name, or one has none.
    """
    names = table.column_names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidArgument(f"two columns are named {twice!r}: rename one", reason="DUPLICATE_COLUMN")
    if "" in names:
        raise InvalidArgument(f"column {names.index('') + 1} has no name: give it one", reason="UNNAMED_COLUMN")
    return pa.table([_normalized(column) for column in table.columns], names=names)


def describe_columns(table: pa.Table, target: str, max_categories: int, *, knows_all: bool) -> tuple[Column, ...]:
    """Return a normalised table's input columns.

    Args:
        table: the rows.
        target: the column that is no input.
        max_categories: values of a text column that get a meaning of their own, the most frequent ones.
        knows_all: refuse a column with more values than that, instead of reading the rare ones as unknown.

    Raises:
        InvalidArgument: a column has a type that no model here reads, or no value at all, or there is none.
    """
    names = [name for name in table.column_names if name != target]
    if not names:
        raise InvalidArgument(f"there is no column beside the target {target!r}", reason="NO_INPUT_COLUMNS")
    reserved = next((name for name in names if name in OUTPUT_NAMES), None)
    if reserved is not None:
        raise InvalidArgument(
            f"column {reserved!r} bears the name of a model's output: rename or drop it", reason="RESERVED_NAME"
        )
    columns = tuple(_describe(name, table.column(name), max_categories) for name in names)
    for column in columns:
        if knows_all and len(column.categories) < _distinct(table.column(column.name), column):
            raise InvalidArgument(
                f"column {column.name!r} has more than {max_categories} different values, too many to refuse all "
                "others: raise max_categories, drop the column, or use handle_unknown='ignore'",
                reason="TOO_MANY_CATEGORIES",
            )
    return columns


def is_numeric(kind: pa.DataType) -> bool:
    """Tell whether a normalised column's type is a number."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_number_list(kind: pa.DataType) -> bool:
    """Tell whether a normalised column's type is lists of numbers: series."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and is_numeric(kind.value_type)


def texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as texts, missing values as empty ones."""
    return pc.fill_null(column.cast(pa.string()), "")


def _normalized(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_list(column.type) and pa.types.is_null(column.type.value_type):
        # Lists of nothing say no type of their own.
        return column.cast(pa.list_(pa.float64()))
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    # Beyond the reach of the wire's INT64.
    return column.cast(pa.float64(), safe=False) if column.type == pa.uint64() else column


def _describe(name: str, column: pa.ChunkedArray, max_categories: int) -> Column:
    if column.null_count == len(column):
        raise InvalidArgument(f"column {name!r} has no value in any row: drop it", reason="EMPTY_COLUMN")
    nullable = column.null_count > 0
    if pa.types.is_boolean(column.type):
        # A missing boolean has no spelling on the wire: NaN has.
        return Column(name, "boolean", "FP64" if nullable else "BOOL", nullable)
    if pa.types.is_integer(column.type):
        return Column(name, "numeric", "FP64" if nullable else "INT64", nullable)
    if pa.types.is_floating(column.type):
        return Column(name, "numeric", "FP64", nullable)
    if _is_text(column.type):
        values = texts(column)
        # An empty text and a missing one are the same on the wire.
        has_empty = bool(pc.any(pc.equal(values, "")).as_py())
        return Column(name, "categorical", "BYTES", has_empty, _categories(values, max_categories))
    if is_number_list(column.type):
        raise InvalidArgument(
            f"column {name!r} holds series ({column.type}), which the family rnn reads, and no other: drop it, or use "
            "rnn",
            reason="UNSUPPORTED_COLUMN",
        )
    raise InvalidArgument(
        f"column {name!r} holds {column.type} values, which no model here reads: cast it to a number "
        "or text, or drop it",
        reason="UNSUPPORTED_COLUMN",
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _categories(values: pa.ChunkedArray, max_categories: int) -> tuple[str, ...]:
    counts = pc.value_counts(values).to_pylist()
    # Ties in alphabetical order, so that the same rows in another order give the same model.
    ordered = sorted(counts, key=lambda item: (-item["counts"], item["values"]))
    return tuple(item["values"] for item in ordered[:max_categories])


def _distinct(values: pa.ChunkedArray, column: Column) -> int:
    return pc.count_distinct(texts(values)).as_py() if column.kind == "categorical" else 0
