"""Finds the type of each column of texts, from all of its rows: int64, double, bool, timestamp, else string.

A column is of the narrowest type that holds every one of its values, wherever in the file they stand. Blanks around
numbers count for nothing; a column without any value is of strings; codes with leading zeros are numbers, as in pandas.
Where a text is not the canonical one of its value, the column's texts are kept: see `original_texts`.
"""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from services.data.domain.original_texts import companion, differing

_BOOLEAN = "^\\s*(true|false)\\s*$"
# Every integer is a double; no other value is of two types.
_NARROWEST_FIRST: tuple[pa.DataType, ...] = (pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us"))


class TypeInference:
    """Looks at all batches of a table of texts.

    Args:
        names: the columns, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._types: list[pa.DataType | None] = [None] * len(names)
        self._keeps_texts = [False] * len(names)

    def update(self, batch: pa.RecordBatch) -> None:
        """Look at the next rows."""
        for index, column in enumerate(batch.columns):
            before = self._types[index]
            kind = self._types[index] = _widened(before, column)
            if kind is None or pa.types.is_string(kind) or self._keeps_texts[index]:
                continue
            # Integers that became doubles were not compared as such.
            is_other = before is not None and before != kind
            self._keeps_texts[index] = is_other or _any(pc.is_valid(differing(column, _cast(column, kind))))

    def schema(self) -> pa.Schema:
        """Return the narrowest types that hold every value so far, then the companions of texts to keep."""
        fields = [pa.field(name, kind or pa.string()) for name, kind in zip(self._names, self._types, strict=True)]
        texts = [
            pa.field(companion(field.name), pa.string())
            for field, is_kept in zip(fields, self._keeps_texts, strict=True)
            if is_kept and not pa.types.is_string(field.type)
        ]
        return pa.schema([*fields, *texts])


def convert(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch of texts as the types that were found, and the texts to keep."""
    columns = [_cast(column, field.type) for column, field in zip(batch.columns, schema, strict=False)]
    names = batch.schema.names
    for index, name in enumerate(names):
        if schema.get_field_index(companion(name)) >= 0:
            columns.append(differing(batch.column(index), columns[index]))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _widened(known: pa.DataType | None, column: pa.Array) -> pa.DataType | None:
    if known == pa.string() or column.null_count == len(column):
        return known
    if known is None:
        return next((kind for kind in _NARROWEST_FIRST if _fits(column, kind)), pa.string())
    if _fits(column, known):
        return known
    return pa.float64() if known == pa.int64() and _fits(column, pa.float64()) else pa.string()


def _fits(column: pa.Array, kind: pa.DataType) -> bool:
    try:
        _cast(column, kind)
    except pa.ArrowInvalid:
        return False
    return True


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return column
    # Arrow also takes 1 and 0 for booleans, and 0x1F for an integer: here the first are numbers, the second is a text.
    if pa.types.is_boolean(kind) and not _all(pc.match_substring_regex(column, _BOOLEAN, ignore_case=True)):
        raise pa.ArrowInvalid("not all true or false")
    if pa.types.is_integer(kind) and _any(pc.match_substring(column, "x", ignore_case=True)):
        raise pa.ArrowInvalid("not all decimal")
    return pc.cast(pc.utf8_trim_whitespace(column), kind)


def _all(mask: pa.Array) -> bool:
    return bool(pc.all(mask, min_count=0).as_py())


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask, min_count=0).as_py())
