"""Reads an uploaded file as Arrow batches in bounded memory, refusing what is broken with the place where it is.

A text file is read twice: once to check it and to find the columns' types, once for its rows. What it costs in memory
does not depend on the file's size: a row, a batch and the names of the columns are bounded.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES, series
from services.data.domain.readers.csv_file import MISSING, read_csv
from services.data.domain.readers.encodings import as_utf8
from services.data.domain.readers.json_lines import read_json_lines
from services.data.domain.readers.parquet_file import read_parquet
from services.data.domain.readers.source import Batches, OpenFile
from services.data.domain.types import FileFormat

_READERS: Mapping[FileFormat, Callable[[OpenFile, str], tuple[pa.Schema, Batches]]] = {
    FileFormat.CSV: read_csv,
    FileFormat.PARQUET: read_parquet,
    FileFormat.JSON_LINES: read_json_lines,
}


def read_file(
    open_file: OpenFile, file_format: FileFormat, delimiter: str = ",", encoding: str = ""
) -> tuple[pa.Schema, Batches]:
    """Return a file's schema and rows.

    Args:
        open_file: opens it from the start; called several times.
        file_format: what it is.
        delimiter: of a CSV file.
        encoding: of a text file; empty for UTF-8.

    Raises:
        InvalidArgument: the file is broken; the reason says how, the message where. May come while rows are read.
    """
    if encoding and file_format is FileFormat.PARQUET:
        raise InvalidArgument("a Parquet file has no encoding: leave it out", reason="UNKNOWN_ENCODING")
    open_file = as_utf8(open_file, encoding)
    schema, batches = _READERS[file_format](open_file, delimiter or ",")
    return schema, _checked(batches, schema)


def _checked(batches: Batches, schema: pa.Schema) -> Batches:
    """Refuse infinities, and read NaN as a missing value, which it is everywhere here."""
    all_series = [index for index, field in enumerate(schema) if field.type == SERIES]
    floats = [index for index, field in enumerate(schema) if pa.types.is_floating(field.type)]
    row = 0
    for batch in batches:
        cleaned = batch
        for index in floats:
            column = batch.column(index)
            if pc.all(pc.is_finite(column), min_count=0).as_py():
                continue
            infinite = pc.is_inf(column).fill_null(False)
            if pc.any(infinite).as_py():
                place = row + int(np.argmax(infinite.to_numpy(zero_copy_only=False))) + 1
                raise _infinite(schema.names[index], place)
            cleaned = cleaned.set_column(
                index, schema.field(index), pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
            )
        for index in all_series:
            column = _checked_series(batch.column(index), schema.names[index], row)
            cleaned = cleaned.set_column(index, schema.field(index), column)
        row += batch.num_rows
        yield cleaned


def _checked_series(column: pa.Array, name: str, row: int) -> pa.Array:
    """Refuse infinities among a series column's steps, and read NaN as a missing one.

    Args:
        column: lists of doubles.
        name: of the column.
        row: rows before it.
    """
    lengths, steps = series(column)
    infinite = np.flatnonzero(np.isinf(steps))
    if len(infinite):
        raise _infinite(name, row + int(np.searchsorted(np.cumsum(lengths), infinite[0], "right")) + 1)
    offsets = pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
    mask = column.is_null() if column.null_count else None
    return pa.ListArray.from_arrays(offsets, pa.array(steps, from_pandas=True), type=SERIES, mask=mask)


def _infinite(name: str, row: int) -> InvalidArgument:
    return InvalidArgument(
        f"column {name!r} holds an infinity in data row {row:,}",
        reason="INFINITE_VALUE",
        metadata={"row": str(row), "column": name},
    )


__all__ = ["MISSING", "Batches", "OpenFile", "read_file"]
