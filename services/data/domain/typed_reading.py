"""Reads a table's columns as the types that a model or another dataset gave them, exactly or not at all.

string: the text as imported; where none was kept, the canonical text of the value. Integers become doubles, and doubles
integers, where every value stays the same number. Texts become what they spell. Everything else is a mismatch, and all
columns that mismatch are reported at once.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.data.domain.casts import cast, parse_stored_type, type_mismatch
from services.data.domain.columns import SERIES
from services.data.domain.original_texts import texts_of, with_companions
from services.data.domain.parsing.missing import NONE
from services.data.ports import OpenedTable

_LISTED = 20


class TypedTable:
    """A version's rows with some columns as given types.

    Args:
        table: the rows as stored.
        types: Arrow type name by column.

    Raises:
        InvalidArgument: a column or a type is unknown.
    """

    def __init__(self, table: OpenedTable, types: Mapping[str, str]) -> None:
        stored = table.schema
        unknown = [name for name in types if stored.get_field_index(name) < 0]
        if unknown:
            raise InvalidArgument(
                f"types are given for columns that the table lacks: {', '.join(map(repr, unknown[:_LISTED]))}",
                reason="UNKNOWN_COLUMN",
                violations=[(f"types[{name}]", "no such column") for name in unknown],
            )
        self._table = table
        self._types = {name: parse_stored_type(kind) for name, kind in types.items()}
        self.schema = pa.schema([pa.field(field.name, self._types.get(field.name, field.type)) for field in stored])

    def check(self, columns: list[str] | None = None, first_row: int = 0, most_rows: int = 0) -> None:
        """Check that every value of the rows can be read as the types. Blocks: use a thread.

        Raises:
            InvalidArgument: COLUMN_TYPE_MISMATCH, naming every column that cannot and its first such row.
        """
        doubtful = [name for name in columns or self.schema.names if self._is_doubtful(name)]
        problems: dict[str, str] = {}
        row = first_row
        for batch in self._table.batches(doubtful, first_row, most_rows) if doubtful else ():
            for name in doubtful:
                if name not in problems and (problem := self._problem(batch.column(name), name, row)):
                    problems[name] = problem
            row += batch.num_rows
        if problems:
            raise type_mismatch({name: problems[name] for name in doubtful if name in problems})

    def batches(
        self, columns: list[str] | None = None, first_row: int = 0, most_rows: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """Read from a row on, some columns or all, as the types; checked before. Blocks: use a thread."""
        names = self.schema.names if columns is None else columns
        schema = pa.schema([self.schema.field(name) for name in names])
        stored = [*names]
        for name in names:
            if name in self._types and pa.types.is_string(self._types[name]):
                stored += with_companions([name], self._table.stored_schema)[1:]
        for batch in self._table.batches(stored, first_row, most_rows):
            yield pa.RecordBatch.from_arrays([self._read(batch, name) for name in names], schema=schema)

    def _read(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        column = batch.column(name)
        target = self._types.get(name, column.type)
        if column.type == target:
            return column
        return texts_of(batch, name) if pa.types.is_string(target) else read_as(column, target)

    def _is_doubtful(self, name: str) -> bool:
        source, target = self._table.schema.field(name).type, self._types.get(name)
        return target is not None and source != target and not (pa.types.is_string(target) and source != SERIES)

    def _problem(self, column: pa.Array, name: str, row: int) -> str:
        """Return what keeps a column from being read as its type; empty for nothing."""
        try:
            read_as(column, self._types[name])
        except InvalidArgument as error:
            place = error.metadata.get("row")
            at = f" (data row {row + int(place):,})" if place else ""
            return f"{column.type} cannot be read as {self._types[name]}{at}"
        return ""


def read_as(column: pa.Array, target: pa.DataType) -> pa.Array:
    """Return a column's values as another type, each the same value.

    Raises:
        InvalidArgument: one is not; the metadata's `row` counts from 1, and is absent where no value could be.
    """
    source = column.type
    if source == target:
        return column
    if column.null_count == len(column):
        return pa.nulls(len(column), target)
    if SERIES in (source, target) or pa.types.is_boolean(source):
        raise InvalidArgument("another kind of value")
    if pa.types.is_string(source):
        # In columns of texts `None` is a text, in others a missing value: see `parsing.missing`.
        column = pc.if_else(pc.equal(column, NONE), pa.scalar(None, pa.string()), column)
        return cast("", pc.utf8_lower(column) if pa.types.is_boolean(target) else column, target)
    is_number = pa.types.is_integer(source) or pa.types.is_floating(source)
    if is_number and pa.types.is_integer(target):
        return cast("", column, target)
    if is_number and pa.types.is_floating(target):
        return _as_floats(column, target)
    if pa.types.is_temporal(source) and pa.types.is_temporal(target):
        if getattr(source, "tz", None) != getattr(target, "tz", None):
            raise InvalidArgument("another time zone")
        return cast("", column, target)
    raise InvalidArgument("another kind of value")


def _as_floats(column: pa.Array, target: pa.DataType) -> pa.Array:
    """Return numbers as floats; integers must stay the same number, doubles may be rounded to single precision."""
    found = pc.cast(column, target, safe=False)
    if pa.types.is_integer(column.type):
        # Beyond 2**53 not every integer is a double.
        whole = column.fill_null(0).to_numpy(zero_copy_only=False)
        other = found.fill_null(0).to_numpy(zero_copy_only=False)
        wrong = (
            np.flatnonzero([int(one) != int(two) for one, two in zip(whole, other, strict=True)])
            if _is_large(whole)
            else np.zeros(0, np.int64)
        )
    else:
        wrong = np.flatnonzero(pc.is_inf(found).fill_null(False).to_numpy(zero_copy_only=False))
    if len(wrong):
        raise InvalidArgument("a number is not the same", metadata={"row": str(int(wrong[0]) + 1)})
    return found


def _is_large(values: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> bool:
    # Not abs: the least integer has no positive one. 2**24 is exact in single precision, too.
    return bool(len(values)) and (int(values.max()) > 2**24 or int(values.min()) < -(2**24))
