"""Reads CSV: Arrow's quick parser does the work, and where it stumbles a slow one finds the place.

The header is the first line that is not blank; blank lines count for nothing. Quoted fields may hold delimiters, line
ends and doubled quotes. A value that is one of MISSING, quoted or not, is missing. Types: see `inference`.
"""

import io
import uuid
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.csv as pacsv

from servicekit.errors import InvalidArgument
from services.data.domain.inference import TypeInference, convert
from services.data.domain.readers.csv_problems import find_header, find_problem
from services.data.domain.readers.source import BLOCK_BYTES, Batches, OpenFile, check_names, check_utf8, empty

# What counts as a missing value: what pandas takes for one.
_NUMBERS = ("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "NaN", "nan")
MISSING = ("", "<NA>", "N/A", "NA", "NULL", "None", "n/a", "null", *_NUMBERS)


def read_csv(open_file: OpenFile, delimiter: str) -> tuple[pa.Schema, Batches]:
    """Return the schema and rows of a CSV file: see `read_file`."""
    check_delimiter(delimiter)
    try:
        names, start = find_header(open_file, delimiter)
        check_names(names)
    except UnicodeDecodeError:
        check_utf8(open_file)
        raise
    inference = TypeInference(names)
    try:
        rows = 0
        for batch in _checked_texts(open_file, start, names, delimiter):
            inference.update(batch)
            rows += batch.num_rows
    except pa.ArrowInvalid as error:
        check_utf8(open_file)
        raise find_problem(open_file, len(names), delimiter, error) from error
    except _Unterminated as error:
        raise find_problem(open_file, len(names), delimiter, error) from error
    if not rows:
        raise empty("has a header and no rows")
    schema = inference.schema()
    return schema, (convert(batch, schema) for batch in _texts(open_file, start, names, delimiter))


def check_delimiter(delimiter: str) -> None:
    """Check that a character can stand between the values of a row.

    Raises:
        InvalidArgument: it cannot.
    """
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter.isalnum() or delimiter in '"\r\n\0.-+ ':
        raise InvalidArgument(
            f"{delimiter!r} cannot be a delimiter: expected one character such as a comma, semicolon, tab or pipe",
            reason="BAD_DELIMITER",
        )


class _Unterminated(Exception):
    """The parser swallowed the row that we put behind the last one: a quote before it never closed."""


def _checked_texts(open_file: OpenFile, start: int, names: list[str], delimiter: str) -> Batches:
    """Yield the rows as texts; at the end, make certain that no quoted field swallowed the rest of the file.

    Arrow takes the end of the file for the end of an open quoted field. So a row of our own is put behind the file: it
    comes back as a row exactly if no field was open.
    """
    mark = uuid.uuid4().hex
    tail = ("\n" + delimiter.join([mark] * len(names)) + "\n").encode()
    last: pa.RecordBatch | None = None
    for batch in _texts(open_file, start, names, delimiter, tail):
        if last is not None:
            yield last
        last = batch
    if last is None or not last.num_rows or last.column(0)[-1].as_py() != mark:
        raise _Unterminated
    if last.num_rows > 1:
        yield last.slice(0, last.num_rows - 1)


def _texts(open_file: OpenFile, start: int, names: list[str], delimiter: str, tail: bytes = b"") -> Batches:
    options = pacsv.ReadOptions(block_size=BLOCK_BYTES, column_names=names)
    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    conversion = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in names}, null_values=list(MISSING), strings_can_be_null=True
    )
    with open_file() as file:
        file.seek(start)
        with pacsv.open_csv(_Tailed(file, tail), options, parse, conversion) as reader:
            yield from _rows(reader)


def _rows(reader: "pacsv.CSVStreamingReader") -> Iterator[pa.RecordBatch]:
    for batch in reader:
        if batch.num_rows:
            yield batch


class _Tailed(io.RawIOBase):
    """A file with some bytes behind its end."""

    def __init__(self, file: BinaryIO, tail: bytes) -> None:
        self._file = file
        self._tail = io.BytesIO(tail)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        content = self._file.read(len(view)) or self._tail.read(len(view))
        view[: len(content)] = content
        return len(content)
