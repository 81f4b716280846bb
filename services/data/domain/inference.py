"""Finds the type of each column of texts, from all of its rows: int64, double, bool, timestamp, else string."""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

_BOOLEAN = "(?i)^\\s*(true|false)\\s*$"
_TIMESTAMP = pa.timestamp("us")
# What a column may become when a value does not fit: integers may turn out to be floats, all else is text.
_NARROWEST_FIRST: tuple[pa.DataType, ...] = (pa.int64(), pa.float64(), pa.bool_(), _TIMESTAMP)


def infer_schema(read: Callable[[], Iterator[pa.RecordBatch]], names: list[str]) -> pa.Schema:
    """Return the narrowest type that holds every value of each column.

    Args:
        read: opens the file as batches of text columns.
        names: the columns, in order.
    """
    types: list[pa.DataType | None] = [None] * len(names)
    for batch in read():
        for index, column in enumerate(batch.columns):
            types[index] = _widen(types[index], column)
    # A column without any value could be anything: text says the least.
    return pa.schema([pa.field(name, kind or pa.string()) for name, kind in zip(names, types, strict=True)])


def convert(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch of texts as the types that were found."""
    columns = [_cast(column, field.type) for column, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _widen(known: pa.DataType | None, column: pa.Array) -> pa.DataType | None:
    if column.null_count == len(column) or known == pa.string():
        return known
    if known is None:
        return next((kind for kind in _NARROWEST_FIRST if _fits(column, kind)), pa.string())
    if _fits(column, known):
        return known
    return pa.float64() if known == pa.int64() and _fits(column, pa.float64()) else pa.string()


def _fits(column: pa.Array, kind: pa.DataType) -> bool:
    try:
        _cast(column, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return column
    # Arrow takes 1 and 0 for booleans, too: beside words they are no numbers, but a sign of mixed values.
    if pa.types.is_boolean(kind) and not pc.all(pc.match_substring_regex(column, _BOOLEAN), min_count=0).as_py():
        raise pa.ArrowInvalid("not all true or false")
    return pc.cast(pc.utf8_trim_whitespace(column), kind)
