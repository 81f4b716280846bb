"""Tables whose columns are series, as tensors: lists of numbers, the latest last; shorter ones end in NaN."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Array, Column, is_number_list, normalize
from services.training.domain.families.output_names import OUTPUT_NAMES

# The outputs of a forecast beside the prediction: the ends of its interval.
INTERVAL_NAMES = ("lower", "upper")
# What the step `windows` puts behind a channel's name for its next values.
_NEXT = "_next"


def describe_series(table: pa.Table, target: str) -> tuple[Column, ...]:
    """Return the columns of series of a normalised table, beside the target; others say whose and when a window is.

    Raises:
        InvalidArgument: there is none, one bears the name of an output, or a row has no steps.
    """
    names = [name for name in table.column_names if name != target and is_number_list(table.column(name).type)]
    if not names:
        raise InvalidArgument(
            f"beside the target {target!r} no column holds series: make windows of the rows first (the step windows), "
            "or import lists of numbers (Parquet, JSON Lines)",
            reason="NO_SERIES",
        )
    reserved = next((name for name in names if name in (*OUTPUT_NAMES, *INTERVAL_NAMES)), None)
    if reserved is not None:
        raise InvalidArgument(
            f"column {reserved!r} bears the name of a model's output: rename or drop it", reason="RESERVED_NAME"
        )
    columns = tuple(Column(name, "series", "FP32", nullable=True) for name in names)
    series_steps(table, columns)
    return columns


def target_channel(columns: tuple[Column, ...], target: str) -> int | None:
    """Return which column is the target's own past, by its name; None where none is."""
    names = [column.name for column in columns]
    past = target.removesuffix(_NEXT)
    return names.index(past) if past in names else None


def series_steps(table: pa.Table, columns: tuple[Column, ...], least_steps: int = 1) -> Array:
    """Return (rows, steps, columns) float32 of a table; shorter series end in NaN, and so is what is missing.

    Args:
        table: with lists of numbers in these columns.
        columns: the channels.
        least_steps: how many steps there are at least.

    Raises:
        InvalidArgument: a column lacks or holds no series, a row has no value, or its channels differ in length.
    """
    table = normalize(table)
    lacking = [column.name for column in columns if column.name not in table.column_names]
    if lacking:
        raise InvalidArgument(f"the table lacks the columns {', '.join(lacking)}", reason="COLUMN_MISSING")
    lengths = np.stack([_lengths(table.column(column.name), column.name) for column in columns], axis=1)
    differing = np.flatnonzero((lengths != lengths[:, :1]).any(axis=1))
    if len(differing):
        raise InvalidArgument(
            f"row {differing[0] + 1}: {columns[0].name!r} has {lengths[differing[0], 0]} steps, and another channel "
            "has more or fewer: the channels of a row are of one length",
            reason="SERIES_LENGTHS",
        )
    found = np.full((table.num_rows, max(int(lengths.max(initial=0)), least_steps), len(columns)), np.nan, np.float32)
    for place, column in enumerate(columns):
        _fill(found[:, :, place], lengths[:, 0], table.column(column.name), column.name)
    empty = np.flatnonzero(np.isnan(found).all(axis=(1, 2)))
    if len(empty):
        raise InvalidArgument(
            f"row {empty[0] + 1} has no value in any of its series: drop such rows", reason="SERIES_EMPTY"
        )
    return found


def _lengths(column: pa.ChunkedArray, name: str) -> Array:
    if not is_number_list(column.type):
        raise InvalidArgument(f"column {name!r} holds {column.type} values, no series", reason="COLUMN_TYPE")
    if column.null_count:
        raise InvalidArgument(
            f"column {name!r} lacks a series in {column.null_count} rows: drop them first (drop_missing)",
            reason="SERIES_MISSING",
        )
    return np.asarray(pc.list_value_length(column).to_numpy(), dtype=np.int64)


def _fill(found: Array, lengths: Array, column: pa.ChunkedArray, name: str) -> None:
    # Integers beyond 2**53 may round: single precision has fewer digits still.
    values = pc.list_flatten(column).cast(pa.float64(), safe=False).to_numpy()
    if np.isinf(values).any():
        raise InvalidArgument(f"column {name!r} holds an infinity", reason="INFINITE_VALUE")
    rows = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    # Beyond what single precision holds it becomes an infinity, which no model takes.
    with np.errstate(over="ignore"):
        found[rows, np.arange(len(values)) - np.repeat(starts, lengths)] = values
    if np.isinf(found).any():
        raise InvalidArgument(f"column {name!r} holds numbers beyond single precision", reason="INFINITE_VALUE")
