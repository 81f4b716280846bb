"""Reads an uploaded file as Arrow batches in bounded memory, refusing what is broken with the place where it is.

A text file is read twice: once to check it and to find the columns' types, once for its rows. What it costs in memory
does not depend on the file's size: a row, a batch and the names of the columns are bounded.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES, series
from services.data.domain.import_options import ImportOptions
from services.data.domain.parsing.missing import MISSING
from services.data.domain.readers.arrow_file import read_arrow
from services.data.domain.readers.csv_file import read_csv
from services.data.domain.readers.dialect import declared_delimiter
from services.data.domain.readers.encodings import as_utf8
from services.data.domain.readers.given_types import with_options
from services.data.domain.readers.json_lines import read_json_lines
from services.data.domain.readers.layers import decompressed, without_lines
from services.data.domain.readers.parquet_file import read_parquet
from services.data.domain.readers.source import Batches, OpenFile, ReadFile
from services.data.domain.types import FileFormat

_TYPED: Mapping[FileFormat, Callable[[OpenFile], tuple[pa.Schema, Callable[[], Batches]]]] = {
    FileFormat.PARQUET: read_parquet,
    FileFormat.JSON_LINES: read_json_lines,
    FileFormat.ARROW: read_arrow,
}


def read_file(
    open_file: OpenFile,
    file_format: FileFormat,
    delimiter: str = "",
    encoding: str = "",
    options: ImportOptions | None = None,
) -> ReadFile:
    """Return a file's schema and rows.

    Args:
        open_file: opens it from the start; called several times.
        file_format: what it is.
        delimiter: of a CSV file; empty to find it.
        encoding: of a text file; empty for UTF-8.
        options: how it is read, where the defaults do not fit.

    Raises:
        InvalidArgument: the file is broken; the reason says how, the message where. May come while rows are read.
    """
    options = options or ImportOptions()
    options.check()
    _check_options(file_format, delimiter, encoding, options)
    if file_format in (FileFormat.CSV, FileFormat.JSON_LINES):
        open_file = as_utf8(decompressed(open_file, options.compression), encoding)
    if file_format is FileFormat.CSV:
        quote = {"": '"', "none": ""}.get(options.quote, options.quote)
        if not delimiter and (declared := declared_delimiter(open_file)):
            delimiter, options = declared, replace(options, skip=max(options.skip, 1))
        found = read_csv(without_lines(open_file, options.skip, options.comment, quote), delimiter, options)
    else:
        found = with_options(*_TYPED[file_format](open_file), options)
    return replace(found, batches=_checked(found.batches, found.schema))


def _check_options(file_format: FileFormat, delimiter: str, encoding: str, options: ImportOptions) -> None:
    """Refuse options that a format does not have."""
    if file_format is FileFormat.CSV:
        return
    unused = [
        name for name in options.text_options if name != "compression" or file_format is not FileFormat.JSON_LINES
    ]
    unused += ["delimiter"] if delimiter else []
    if unused:
        raise InvalidArgument(
            f"a {file_format.value} file has no {', '.join(unused)}: leave {'it' if len(unused) == 1 else 'them'} out",
            reason="UNUSED_OPTION",
            violations=[(f"options.{name}", f"not of {file_format.value} files") for name in unused],
        )
    if encoding and file_format is not FileFormat.JSON_LINES:
        raise InvalidArgument(f"a {file_format.value} file has no encoding: leave it out", reason="UNKNOWN_ENCODING")


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


__all__ = ["MISSING", "Batches", "OpenFile", "ReadFile", "read_file"]
