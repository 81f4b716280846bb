"""What is predicted: the task that follows from a target column, and its values as numbers or class indexes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Array, is_number_list, is_numeric

# The task, and its output, of a model that gives vectors.
EMBEDDING = "embedding"
_MAX_CLASSES = 1000
_LEAST_ROWS = 2
# Whole numbers beyond this are no longer told apart as doubles.
_LARGEST_CLASS = 2**53


@dataclass(frozen=True)
class Target:
    """What is predicted.

    Args:
        name: of the column.
        task: regression, binary, multiclass, forecasting or embedding.
        classes: their labels in order, as texts; empty for all else.
        datatype: of the labels or values on the wire: BYTES, INT64, BOOL, FP64 or FP32.
        horizon: steps that a forecast has; 0 for one value.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    datatype: str
    horizon: int = 0

    @property
    def output(self) -> str:
        """The name of the export's output that answers."""
        return EMBEDDING if self.task == EMBEDDING else "prediction"


def describe_target(table: pa.Table, name: str, *, classify: bool | None) -> Target:
    """Return what is to be predicted.

    Args:
        table: the training rows, normalised.
        name: the target column.
        classify: whether classes are wanted; None takes texts, booleans and two whole numbers as classes.

    Raises:
        InvalidArgument: the target lacks, is constant, or does not suit the family.
    """
    summary = TargetSummary(name, classify=classify)
    summary.update(table)
    return summary.target()


class TargetSummary:
    """What there is to know of a target, gathered piece by piece, in memory that does not grow with the rows.

    Args:
        name: the target column.
        classify: whether classes are wanted; None takes texts, booleans and two whole numbers as classes.
    """

    def __init__(self, name: str, *, classify: bool | None) -> None:
        self._name = name
        self._classify = classify
        self._kind = pa.null()
        self._rows = self._missing = 0
        self._least, self._most = math.inf, -math.inf
        self._is_finite = self._is_whole = True
        # As many as decide whether they are classes.
        self._counts: dict[Any, int] | None = None if classify is False else {}

    def update(self, table: pa.Table) -> None:
        """Add rows of a normalised table.

        Raises:
            InvalidArgument: it lacks the target, or that holds series, or no classes where these are wanted.
        """
        column = _found(table, self._name)
        if is_number_list(column.type):
            raise InvalidArgument(
                f"the target {self._name!r} holds series: forecasts are made by the family rnn",
                reason="TARGET_IS_SERIES",
            )
        self._kind = column.type
        self._rows += len(column)
        self._missing += column.null_count
        if pa.types.is_floating(column.type):
            self._is_finite = self._is_finite and not _has_infinity(column)
            self._is_whole = self._is_whole and _is_whole(column)
        if is_numeric(column.type) and column.null_count < len(column):
            least, most = pc.min_max(column).as_py().values()
            self._least, self._most = min(self._least, least), max(self._most, most)
        if self._counts is not None:
            _check_labels(self._name, column.type)
            self._count(pc.value_counts(column))

    def target(self) -> Target:
        """Return what is to be predicted.

        Raises:
            InvalidArgument: the target is constant, misses values, or does not suit the family.
        """
        if self._missing:
            raise _missing(self._name, self._missing, self._rows)
        if self._rows < _LEAST_ROWS:
            raise InvalidArgument(
                f"{self._rows} rows are too few to learn from: there must be {_LEAST_ROWS}", reason="TOO_FEW_ROWS"
            )
        numeric = is_numeric(self._kind)
        if self._classify is False and not numeric:
            raise InvalidArgument(
                f"the target {self._name!r} holds {self._kind} values, and this family predicts numbers: use "
                "logistic_regression, boosted_trees or mlp",
                reason="TARGET_NOT_NUMERIC",
            )
        is_two = self._counts is not None and len(self._counts) == 2 and self._is_whole
        is_classes = self._classify or (self._classify is None and (not numeric or is_two))
        return self._class_target() if is_classes else self._value_target()

    def class_rows(self) -> dict[str, int]:
        """Return how many rows have each class, by label."""
        return {label_text(value): count for value, count in (self._counts or {}).items()}

    def _count(self, found: pa.StructArray) -> None:
        if self._counts is None or len(found) > _MAX_CLASSES:
            self._counts = None
            return
        for item in found.to_pylist():
            self._counts[item["values"]] = self._counts.get(item["values"], 0) + item["counts"]
        if len(self._counts) > _MAX_CLASSES:
            self._counts = None

    def _class_target(self) -> Target:
        name, counts = self._name, self._counts
        if pa.types.is_floating(self._kind):
            self._check_finite()
            if not self._is_whole:
                raise InvalidArgument(
                    f"the target {name!r} holds fractions: they are no classes; use linear_regression, or "
                    "boosted_trees or mlp with task='regression'",
                    reason="TARGET_NOT_CLASSES",
                )
        if counts is None:
            raise InvalidArgument(
                f"the target {name!r} has more different values than the most classes, {_MAX_CLASSES}",
                reason="TOO_MANY_CLASSES",
            )
        if len(counts) < 2:
            raise _constant(name)
        rare = sorted(label_text(value) for value, count in counts.items() if count < 2)
        if rare:
            raise InvalidArgument(
                f"class {rare[0]!r} of {name!r} occurs once: a class needs two rows at least; drop or merge it",
                reason="CLASS_SEEN_ONCE",
            )
        classes = tuple(label_text(value) for value in sorted(counts))
        whole = "INT64" if is_numeric(self._kind) else "BYTES"
        datatype = "BOOL" if pa.types.is_boolean(self._kind) else whole
        return Target(name, "binary" if len(classes) == 2 else "multiclass", classes, datatype)

    def _value_target(self) -> Target:
        self._check_finite()
        if self._least == self._most:
            raise _constant(self._name)
        return Target(self._name, "regression", (), "FP64")

    def _check_finite(self) -> None:
        if not self._is_finite:
            raise _infinite(self._name)


def describe_positives(table: pa.Table, name: str) -> Target:
    """Return the target of embeddings: a column of texts, each of which belongs to the one that the row begins with.

    Args:
        table: the training rows, normalised.
        name: the target column.

    Raises:
        InvalidArgument: the target lacks, holds no texts or an empty one, or always the same.
    """
    values = _positives(name, _enough(_complete(table, name)))
    if len(set(values)) == 1:
        raise _constant(name)
    return Target(name, EMBEDDING, (), "FP32")


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
    """Return the target of a normalised table: (rows,) floats, class indexes or texts; of forecasts (rows, horizon).

    Raises:
        InvalidArgument: the table lacks it, it holds no values of its kind, a row has a class that training did not
            see, or another horizon.
    """
    column = _complete(table, target.name)
    if target.task == EMBEDDING:
        return np.array(_positives(target.name, column), dtype=object)
    if target.horizon:
        return _steps_to_come(target.name, column, target.horizon)
    if target.task == "regression":
        if not is_numeric(column.type):
            raise InvalidArgument(f"the target {target.name!r} is not numeric", reason="TARGET_NOT_NUMERIC")
        # Integers beyond 2**53 may round, as those of inputs do.
        return np.asarray(_finite(target.name, column.cast(pa.float64(), safe=False)).to_numpy())
    _check_labels(target.name, column.type)
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


def _found(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise InvalidArgument(
            f"there is no target column {name!r}: the table has {', '.join(table.column_names[:50])}",
            reason="TARGET_NOT_FOUND",
        )
    return table.column(name)


def _complete(table: pa.Table, name: str) -> pa.ChunkedArray:
    column = _found(table, name)
    if column.null_count:
        raise _missing(name, column.null_count, len(column))
    return column


def _check_labels(name: str, kind: pa.DataType) -> None:
    is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if pa.types.is_nested(kind) or is_binary or pa.types.is_fixed_size_binary(kind):
        raise InvalidArgument(
            f"the target {name!r} holds {kind} values, which are no classes: make texts, numbers or booleans of them",
            reason="TARGET_NOT_CLASSES",
        )


def _enough(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if len(column) < _LEAST_ROWS:
        raise InvalidArgument(
            f"{len(column)} rows are too few to learn from: there must be {_LEAST_ROWS}", reason="TOO_FEW_ROWS"
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
    values = pc.list_flatten(column).cast(pa.float64(), safe=False).to_numpy()
    missing = np.flatnonzero(~np.isfinite(values))
    if len(missing):
        raise InvalidArgument(
            f"the target {name!r} lacks a step in row {missing[0] // wanted + 1}, or holds an infinity: drop such rows",
            reason="TARGET_MISSING",
        )
    return np.asarray(values.reshape(-1, wanted))


def _positives(name: str, column: pa.ChunkedArray) -> list[str]:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InvalidArgument(
            f"the target {name!r} holds {column.type} values: embeddings are learned from rows of two texts that "
            "belong together, the second of them the target",
            reason="TARGET_NOT_TEXT",
        )
    values: list[str] = column.to_pylist()
    empty = next((place for place, text in enumerate(values) if not text.strip()), None)
    if empty is not None:
        raise InvalidArgument(
            f"row {empty + 1} has no text in {name!r}: drop such rows first (dropna, or the step drop_missing)",
            reason="TEXT_MISSING",
        )
    return values


def _missing(name: str, missing: int, rows: int) -> InvalidArgument:
    return InvalidArgument(
        f"the target {name!r} has no value in {missing} of {rows} rows: drop them first (dropna, or the step "
        "drop_missing)",
        reason="TARGET_MISSING",
    )


def _constant(name: str) -> InvalidArgument:
    return InvalidArgument(
        f"the target {name!r} is constant: there is nothing to learn; "
        "choose another target, or rows in which it differs",
        reason="TARGET_CONSTANT",
    )


def _infinite(name: str) -> InvalidArgument:
    return InvalidArgument(f"the target {name!r} holds an infinity", reason="INFINITE_VALUE")


def _finite(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type) and _has_infinity(column):
        raise _infinite(name)
    return column


def _has_infinity(column: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.is_inf(column)).as_py())


def _is_whole(column: pa.ChunkedArray) -> bool:
    fits = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), float(_LARGEST_CLASS)))
    # Of no value at all, or of missing ones alone, nothing is known.
    return pc.all(fits).as_py() is not False
