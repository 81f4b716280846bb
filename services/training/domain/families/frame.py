"""A table made ready for training: its input columns by kind, and what cannot be learned from refused."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.training.domain.families.category_counts import CategoryCounts
from services.training.domain.families.output_names import OUTPUT_NAMES

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Column:
    """One input column as the model will ask for it.

    Args:
        name: as in the table.
        kind: numeric, boolean, temporal, categorical, text or series.
        datatype: Open Inference name on the wire: FP64, FP32, INT64, BOOL or BYTES.
        nullable: whether rows lacked a value; then NaN or an empty text means missing.
        categories: the known values, most frequent first, missing as the empty text; for categorical ones.
        origin: the earliest of training, microseconds since 1970-01-01T00:00:00Z; for temporal ones.
    """

    name: str
    kind: str
    datatype: str
    nullable: bool
    categories: tuple[str, ...] = ()
    origin: int = 0


def normalize(table: pa.Table) -> pa.Table:
    """Return a table in few types.

    NaN is missing, decimals are doubles, dictionaries their values, dates and times timestamps of microseconds
    in UTC (a time of day on 1970-01-01), durations seconds.

    Raises:
        InvalidArgument: two columns have the same name, one has none, or a date is too far away.
    """
    names = table.column_names
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise InvalidArgument(f"two columns are named {twice!r}: rename one", reason="DUPLICATE_COLUMN")
    if "" in names:
        raise InvalidArgument(f"column {names.index('') + 1} has no name: give it one", reason="UNNAMED_COLUMN")
    columns = zip(names, table.columns, strict=True)
    return pa.table([_moments(name, _normalized(column)) for name, column in columns], names=names)


def columns_of(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return a table's columns by name: Arrow looks at every name for each that it is asked for."""
    return dict(zip(table.column_names, table.columns, strict=True))


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
    summary = ColumnsSummary(target)
    summary.update(table)
    return summary.columns(max_categories, knows_all=knows_all)


class ColumnsSummary:
    """What there is to know of the input columns, gathered piece by piece, in memory that does not grow with the rows.

    Args:
        target: the column that is no input.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._columns: dict[str, _ColumnSummary] = {}

    def update(self, table: pa.Table) -> None:
        """Add rows of a normalised table.

        Raises:
            InvalidArgument: there is no input column, or one bears the name of an output.
        """
        columns = columns_of(table)
        names = [name for name in columns if name != self._target]
        if not names:
            raise InvalidArgument(f"there is no column beside the target {self._target!r}", reason="NO_INPUT_COLUMNS")
        reserved = next((name for name in names if name in OUTPUT_NAMES), None)
        if reserved is not None:
            raise InvalidArgument(
                f"column {reserved!r} bears the name of a model's output: rename or drop it", reason="RESERVED_NAME"
            )
        for name in names:
            column = columns[name]
            self._columns.setdefault(name, _ColumnSummary(name, column.type)).update(column)

    def columns(self, max_categories: int, *, knows_all: bool) -> tuple[Column, ...]:
        """Return the columns; see `describe_columns`.

        Raises:
            InvalidArgument: a column has a type that no model here reads, no value at all, or too many.
        """
        found = tuple(column.describe(max_categories) for column in self._columns.values())
        if knows_all:
            for column in self._columns.values():
                column.check_known(max_categories)
        return found


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


def _moments(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if not pa.types.is_temporal(kind) or pa.types.is_interval(kind):
        return column
    try:
        if pa.types.is_duration(kind):
            return pc.divide(column.cast(pa.duration("us"), safe=False).cast(pa.int64()).cast(pa.float64()), 1e6)
        if pa.types.is_time(kind):
            # By way of microseconds since midnight.
            column = column.cast(pa.time64("us"), safe=False).cast(pa.int64())
        elif pa.types.is_timestamp(kind):
            # A zone says how a moment is shown: what is stored is UTC.
            column = column.cast(pa.timestamp("us", kind.tz), safe=kind.unit not in ("ns", "us")).cast(pa.int64())
        return column.cast(pa.timestamp("us"))
    except pa.ArrowInvalid as error:
        raise InvalidArgument(
            f"column {name!r} holds a date that 64-bit microseconds do not reach", reason="DATE_OUT_OF_RANGE"
        ) from error


class _ColumnSummary:
    def __init__(self, name: str, kind: pa.DataType) -> None:
        self._name = name
        self._kind = kind
        self._rows = self._missing = 0
        # An empty text and a missing one are the same on the wire.
        self._has_empty = False
        self._counts = CategoryCounts()
        self._earliest: int | None = None

    def update(self, column: pa.ChunkedArray) -> None:
        self._rows += len(column)
        self._missing += column.null_count
        if pa.types.is_timestamp(column.type) and column.null_count < len(column):
            earliest = pc.min(column.cast(pa.int64())).as_py()
            self._earliest = earliest if self._earliest is None else min(self._earliest, earliest)
        if _is_text(column.type):
            values = texts(column)
            self._has_empty = self._has_empty or bool(pc.any(pc.equal(values, "")).as_py())
            self._counts.update(values)

    def describe(self, max_categories: int) -> Column:
        if self._missing == self._rows:
            raise InvalidArgument(f"column {self._name!r} has no value in any row: drop it", reason="EMPTY_COLUMN")
        nullable = self._missing > 0
        if pa.types.is_boolean(self._kind):
            # A missing boolean has no spelling on the wire: NaN has.
            return Column(self._name, "boolean", "FP64" if nullable else "BOOL", nullable)
        if pa.types.is_integer(self._kind):
            return Column(self._name, "numeric", "FP64" if nullable else "INT64", nullable)
        if pa.types.is_floating(self._kind):
            return Column(self._name, "numeric", "FP64", nullable)
        if pa.types.is_timestamp(self._kind):
            datatype = "FP64" if nullable else "INT64"
            return Column(self._name, "temporal", datatype, nullable, origin=self._earliest or 0)
        if _is_text(self._kind):
            categories = self._counts.most_frequent(max_categories)
            return Column(self._name, "categorical", "BYTES", self._has_empty, categories)
        if is_number_list(self._kind):
            raise InvalidArgument(
                f"column {self._name!r} holds series ({self._kind}), which the family rnn alone reads: drop it, or use "
                "rnn",
                reason="UNSUPPORTED_COLUMN",
            )
        raise InvalidArgument(
            f"column {self._name!r} holds {self._kind} values, which no model here reads: cast it to a number "
            "or text, or drop it",
            reason="UNSUPPORTED_COLUMN",
        )

    def check_known(self, max_categories: int) -> None:
        if self._counts.has_more_than(max_categories):
            raise InvalidArgument(
                f"column {self._name!r} has more than {max_categories} different values, too many to refuse all "
                "others: raise max_categories, drop the column, or use handle_unknown='ignore'",
                reason="TOO_MANY_CATEGORIES",
            )


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
