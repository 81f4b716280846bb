"""What is predicted: the task that follows from a target column, and its values as numbers or class indexes."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Array, is_number_list, is_numeric

_MAX_CLASSES = 1000
_LEAST_ROWS = 2
# Whole numbers beyond this are no longer told apart as doubles.
_LARGEST_CLASS = 2**53


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Args:
        name: of the column.
        task: regression, binary, multiclass or forecasting.
        classes: their labels in order, as texts; empty for numbers.
        datatype: of the labels or values on the wire: BYTES, INT64, BOOL, FP64 or FP32.
        horizon: steps that a forecast has; 0 for one value.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    datatype: str
    horizon: int = 0


def describe_target(table: pa.Table, name: str, *, classify: bool | None) -> Target:
    """Return what is to be predicted.

    Args:
        table: the training rows, normalised.
        name: the target column.
        classify: whether classes are wanted; None takes texts, booleans and two whole numbers as classes.

    Raises:
        InvalidArgument: the target lacks, is constant, or does not suit the family.
    """
    column = _complete(table, name)
    if len(column) < _LEAST_ROWS:
        raise InvalidArgument(
            f"{len(column)} rows are too few to learn from: there must be {_LEAST_ROWS}", reason="TOO_FEW_ROWS"
        )
    if is_number_list(column.type):
        raise InvalidArgument(
            f"the target {name!r} holds series: forecasts are made by the family rnn", reason="TARGET_IS_SERIES"
        )
    numeric = is_numeric(column.type)
    if classify is False and not numeric:
        raise InvalidArgument(
            f"the target {name!r} holds {column.type} values, and this family predicts numbers: use "
            "logistic_regression, boosted_trees or mlp",
            reason="TARGET_NOT_NUMERIC",
        )
    if classify is None:
        classify = not numeric or _is_two_whole_numbers(column)
    return _class_target(name, column) if classify else _value_target(name, column)


def describe_forecast(table: pa.Table, name: str) -> Target:
    """Return what is to be forecast: a column of lists of the steps to come, of one length.

    Raises:
        InvalidArgument: the lists differ in length, a step is missing, or nothing ever changes.
    """
    values = _steps_to_come(name, _complete(table, name), None)
    if values.min() == values.max():
        raise _constant(name)
    return Target(name, "forecasting", (), "FP32", horizon=values.shape[1])


def target_values(table: pa.Table, target: Target) -> Array:
    """Return the target of a normalised table: floats or class indexes, shape (rows,); of forecasts (rows, horizon).

    Raises:
        InvalidArgument: the table lacks it, a row has a class that training did not see, or another horizon.
    """
    column = _complete(table, target.name)
    if target.horizon:
        return _steps_to_come(target.name, column, target.horizon)
    if target.task == "regression":
        if not is_numeric(column.type):
            raise InvalidArgument(f"the target {target.name!r} is not numeric", reason="TARGET_NOT_NUMERIC")
        return np.asarray(_finite(target.name, column.cast(pa.float64())).to_numpy())
    encoded = column.combine_chunks().dictionary_encode()
    labels = [label_text(value) for value in encoded.dictionary.to_pylist()]
    known = {label: index for index, label in enumerate(target.classes)}
    unknown = next((label for label in labels if label not in known), None)
    if unknown is not None:
        raise InvalidArgument(
            f"class {unknown!r} of {target.name!r} did not occur in training: known are "
            f"{', '.join(target.classes[:20])}",
            reason="UNKNOWN_CLASS",
        )
    places = np.array([known[label] for label in labels], dtype=np.int64)
    return np.asarray(places[encoded.indices.to_numpy()])


def label_text(value: object) -> str:
    """Return a class label as text: whole floats as integers, booleans in lower case."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _complete(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise InvalidArgument(
            f"there is no target column {name!r}: the table has {', '.join(table.column_names[:50])}",
            reason="TARGET_NOT_FOUND",
        )
    column = table.column(name)
    if column.null_count:
        raise InvalidArgument(
            f"the target {name!r} has no value in {column.null_count} of {len(column)} rows: drop them first (dropna, "
            "or the step drop_missing)",
            reason="TARGET_MISSING",
        )
    return column


def _steps_to_come(name: str, column: pa.ChunkedArray, horizon: int | None) -> Array:
    """Return (rows, horizon) floats; None for the horizon takes the first row's."""
    if not is_number_list(column.type):
        raise InvalidArgument(f"the target {name!r} holds {column.type} values, no series", reason="TARGET_NOT_SERIES")
    if len(column) == 0:
        return np.zeros((0, horizon or 0))
    lengths = pc.list_value_length(column).to_numpy()
    wanted = int(lengths[0]) if horizon is None else horizon
    wrong = np.flatnonzero(lengths != wanted)
    if len(wrong) or not wanted:
        raise InvalidArgument(
            f"the target {name!r} has {lengths[wrong[0]] if len(wrong) else 0} steps in row "
            f"{wrong[0] + 1 if len(wrong) else 1}, not {wanted or 'one at least'}: forecasts are of one length",
            reason="TARGET_LENGTHS",
        )
    values = pc.list_flatten(column).cast(pa.float64()).to_numpy()
    missing = np.flatnonzero(~np.isfinite(values))
    if len(missing):
        raise InvalidArgument(
            f"the target {name!r} lacks a step in row {missing[0] // wanted + 1}, or holds an infinity: drop such rows",
            reason="TARGET_MISSING",
        )
    return np.asarray(values.reshape(-1, wanted))


def _class_target(name: str, column: pa.ChunkedArray) -> Target:
    if pa.types.is_floating(column.type) and not _is_whole(_finite(name, column)):
        raise InvalidArgument(
            f"the target {name!r} holds fractions: they are no classes; use linear_regression, or boosted_trees "
            "or mlp with task='regression'",
            reason="TARGET_NOT_CLASSES",
        )
    counts = {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}
    if len(counts) < 2:
        raise _constant(name)
    if len(counts) > _MAX_CLASSES:
        raise InvalidArgument(
            f"the target {name!r} has {len(counts)} different values, more classes than {_MAX_CLASSES}",
            reason="TOO_MANY_CLASSES",
        )
    rare = sorted(label_text(value) for value, count in counts.items() if count < 2)
    if rare:
        raise InvalidArgument(
            f"class {rare[0]!r} of {name!r} occurs once: a class needs two rows at least; drop or merge it",
            reason="CLASS_SEEN_ONCE",
        )
    classes = tuple(label_text(value) for value in sorted(counts))
    whole = "INT64" if is_numeric(column.type) else "BYTES"
    datatype = "BOOL" if pa.types.is_boolean(column.type) else whole
    return Target(name, "binary" if len(classes) == 2 else "multiclass", classes, datatype)


def _value_target(name: str, column: pa.ChunkedArray) -> Target:
    least, most = pc.min_max(_finite(name, column)).as_py().values()
    if least == most:
        raise _constant(name)
    return Target(name, "regression", (), "FP64")


def _constant(name: str) -> InvalidArgument:
    return InvalidArgument(f"the target {name!r} is constant: there is nothing to learn", reason="TARGET_CONSTANT")


def _finite(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type) and pc.any(pc.is_inf(column)).as_py():
        raise InvalidArgument(f"the target {name!r} holds an infinity", reason="INFINITE_VALUE")
    return column


def _is_whole(column: pa.ChunkedArray) -> bool:
    fits = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), float(_LARGEST_CLASS)))
    return bool(pc.all(fits).as_py())


def _is_two_whole_numbers(column: pa.ChunkedArray) -> bool:
    values = pc.unique(column).to_pylist()
    return len(values) == 2 and all(float(value).is_integer() for value in values)
