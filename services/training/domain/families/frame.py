"""A table made ready for training: columns by kind, the target as numbers or classes, what cannot work refused."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument

Array = np.ndarray[Any, Any]
MAX_CATEGORIES = 1000
_MAX_CLASSES = 1000
_LEAST_ROWS = 2


@dataclass(frozen=True)
class Column:
    """One input column as the model will ask for it.

    Args:
        name: as in the table.
        kind: numeric, boolean or categorical.
        datatype: Open Inference name on the wire: FP64, INT64, BOOL or BYTES.
        nullable: whether training rows lacked a value; then NaN or an empty text means missing.
        categories: the known values, most frequent first, missing as the empty text; for categorical ones.
    """

    name: str
    kind: str
    datatype: str
    nullable: bool
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Args:
        name: of the column.
        task: regression, binary or multiclass.
        classes: their labels in order, as texts; empty for regression.
        datatype: of the labels on the wire: BYTES, INT64, BOOL or FP64.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    datatype: str


def describe_columns(table: pa.Table, target: str) -> tuple[Column, ...]:
    """Return a table's input columns.

    Raises:
        InvalidArgument: a column has a type that no model here reads, or no value at all, or there is none.
    """
    columns = tuple(_describe(name, table.column(name)) for name in table.column_names if name != target)
    if not columns:
        raise InvalidArgument(f"there is no column beside the target {target!r}", reason="NO_INPUT_COLUMNS")
    return columns


def describe_target(table: pa.Table, name: str, *, classify: bool | None) -> Target:
    """Return what is to be predicted.

    Args:
        table: the training rows.
        name: the target column.
        classify: whether the family wants classes; None takes texts, booleans and two whole numbers as classes.

    Raises:
        InvalidArgument: the target lacks, is constant, or does not suit the family.
    """
    if name not in table.column_names:
        raise InvalidArgument(
            f"there is no target column {name!r}: the table has {', '.join(table.column_names[:50])}",
            reason="TARGET_NOT_FOUND",
        )
    column = table.column(name)
    if column.null_count:
        raise InvalidArgument(
            f"the target {name!r} has no value in {column.null_count} rows: drop them first (dropna, or the step "
            "drop_missing)",
            reason="TARGET_MISSING",
        )
    if len(column) < _LEAST_ROWS:
        raise InvalidArgument(f"{len(column)} rows are too few to learn from", reason="TOO_FEW_ROWS")
    numeric = _is_numeric(column.type)
    if classify is False and not numeric:
        raise InvalidArgument(
            f"the target {name!r} holds {column.type} values, and this family predicts numbers: use "
            "logistic_regression or boosted_trees",
            reason="TARGET_NOT_NUMERIC",
        )
    if classify is None:
        classify = not numeric or _is_two_whole_numbers(column)
    return _class_target(name, column) if classify else _value_target(name, column)


def target_values(table: pa.Table, target: Target) -> Array:
    """Return the target as floats (regression) or class indexes, shape (rows,).

    Raises:
        InvalidArgument: the table lacks it, or a row has a class that training did not see.
    """
    if target.name not in table.column_names:
        raise InvalidArgument(f"there is no target column {target.name!r}", reason="TARGET_NOT_FOUND")
    column = table.column(target.name)
    if column.null_count:
        raise InvalidArgument(f"the target {target.name!r} has rows without a value", reason="TARGET_MISSING")
    if target.task == "regression":
        if not _is_numeric(column.type):
            raise InvalidArgument(f"the target {target.name!r} is not numeric", reason="TARGET_NOT_NUMERIC")
        return np.asarray(column.cast(pa.float64()).to_numpy())
    known = {label: index for index, label in enumerate(target.classes)}
    labels = [label_text(value) for value in column.to_pylist()]
    unknown = next((label for label in labels if label not in known), None)
    if unknown is not None:
        raise InvalidArgument(
            f"class {unknown!r} did not occur in training: known are {', '.join(target.classes[:20])}",
            reason="UNKNOWN_CLASS",
        )
    return np.array([known[label] for label in labels], dtype=np.int64)


def label_text(value: object) -> str:
    """Return a class label as text: whole floats as integers, booleans in lower case."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _describe(name: str, column: pa.ChunkedArray) -> Column:
    if column.null_count == len(column):
        raise InvalidArgument(f"column {name!r} has no value in any row: drop it", reason="EMPTY_COLUMN")
    nullable = column.null_count > 0
    if pa.types.is_boolean(column.type):
        # A missing boolean has no spelling on the wire: NaN has.
        return Column(name, "boolean", "FP64" if nullable else "BOOL", nullable)
    if pa.types.is_integer(column.type):
        return Column(name, "numeric", "FP64" if nullable else "INT64", nullable)
    if _is_numeric(column.type):
        return Column(name, "numeric", "FP64", nullable)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return Column(name, "categorical", "BYTES", nullable, _categories(column))
    raise InvalidArgument(
        f"column {name!r} holds {column.type} values, which no model here reads: cast it to a number "
        "or text, or drop it",
        reason="UNSUPPORTED_COLUMN",
    )


def _categories(column: pa.ChunkedArray) -> tuple[str, ...]:
    counts = pc.value_counts(column.fill_null("").combine_chunks()).to_pylist()
    # Ties in alphabetical order, so that the same rows in another order give the same model.
    ordered = sorted(counts, key=lambda item: (-item["counts"], item["values"]))
    return tuple(item["values"] for item in ordered[:MAX_CATEGORIES])


def _class_target(name: str, column: pa.ChunkedArray) -> Target:
    if pa.types.is_floating(column.type) and pc.any(pc.not_equal(pc.floor(column), column)).as_py():
        raise InvalidArgument(
            f"the target {name!r} holds fractions: they are no classes; use linear_regression or boosted_trees",
            reason="TARGET_NOT_CLASSES",
        )
    counts = Counter(column.to_pylist())
    if len(counts) < 2:
        raise InvalidArgument(f"the target {name!r} is constant: there is nothing to learn", reason="TARGET_CONSTANT")
    if len(counts) > _MAX_CLASSES:
        raise InvalidArgument(
            f"the target {name!r} has {len(counts)} different values, more classes than {_MAX_CLASSES}",
            reason="TOO_MANY_CLASSES",
        )
    rare = [label_text(value) for value, count in counts.items() if count < 2]
    if rare:
        raise InvalidArgument(
            f"class {sorted(rare)[0]!r} of {name!r} occurs once: a class needs two rows at least; drop or merge it",
            reason="CLASS_SEEN_ONCE",
        )
    classes = tuple(label_text(value) for value in sorted(counts))
    whole = "INT64" if _is_numeric(column.type) else "BYTES"
    datatype = "BOOL" if pa.types.is_boolean(column.type) else whole
    return Target(name, "binary" if len(classes) == 2 else "multiclass", classes, datatype)


def _value_target(name: str, column: pa.ChunkedArray) -> Target:
    least, most = pc.min_max(column).as_py().values()
    if least == most:
        raise InvalidArgument(f"the target {name!r} is constant: there is nothing to learn", reason="TARGET_CONSTANT")
    return Target(name, "regression", (), "FP64")


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_two_whole_numbers(column: pa.ChunkedArray) -> bool:
    values = pc.unique(column).to_pylist()
    return len(values) == 2 and all(float(value).is_integer() for value in values)
