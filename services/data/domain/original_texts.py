"""The texts of an imported file, kept with the values that were read from them.

A text file's column that was read as numbers, booleans or times has a companion column of strings where the text of
some row is not the canonical text of its value: "1.50", "True", " 5", "2020-01-01". The companion holds such a text,
and null in every other row. It is stored in the same encrypted table, and is not listed among a version's columns.
Steps that keep rows keep it, and steps that compute a column drop it.
"""

import pyarrow as pa
import pyarrow.compute as pc

from services.data.domain.columns import SERIES

# A NUL is in no column's name: see `check_names`.
_PREFIX = "\0text of "


def companion(column: str) -> str:
    """Return the name of the column that holds a column's texts."""
    return _PREFIX + column


def is_companion(name: str) -> bool:
    """Return whether a column holds the texts of another."""
    return name.startswith(_PREFIX)


def listed(names: list[str]) -> list[str]:
    """Return the names of the columns that users see."""
    return [name for name in names if not is_companion(name)]


def with_companions(names: list[str], schema: pa.Schema) -> list[str]:
    """Return columns' names, then those of their companions in a schema."""
    return [*names, *(companion(name) for name in names if schema.get_field_index(companion(name)) >= 0)]


def listed_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema without companions."""
    return pa.schema([field for field in schema if not is_companion(field.name)])


def canonical(column: pa.Array) -> pa.Array:
    """Return the canonical texts of a column's values: `pc.cast` to string."""
    # Arrow writes no durations.
    plain = column.cast(pa.int64()) if pa.types.is_duration(column.type) else column
    return pc.cast(plain, pa.string())


def differing(texts: pa.Array, values: pa.Array) -> pa.Array:
    """Return a companion: each text that is not the canonical one of its value, null elsewhere.

    Args:
        texts: as in the file; null for a missing value.
        values: what was read from them.
    """
    if pa.types.is_string(values.type) or values.type == SERIES:
        return pa.nulls(len(values), pa.string())
    same = pc.fill_null(pc.equal(texts, canonical(values)), False)
    return pc.if_else(same, pa.scalar(None, pa.string()), texts)


def texts_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column's texts: as imported where they were kept, else the canonical ones."""
    values = batch.column(name)
    found = values if pa.types.is_string(values.type) else canonical(values)
    index = batch.schema.get_field_index(companion(name))
    return found if index < 0 else pc.coalesce(batch.column(index), found)
