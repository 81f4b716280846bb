"""Reads CSV: Arrow's quick parser does the work, and where it stumbles a slow one finds the place.

The header is the first line that is not blank; blank lines count for nothing. Quoted fields may hold delimiters, line
ends and doubled quotes. Types: see `parsing.columns`; missing values: see `parsing.missing`.
"""

import io
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.csv as pacsv

from servicekit.errors import InvalidArgument
from services.data.domain.casts import type_mismatch
from services.data.domain.import_options import ALL_COLUMNS, ImportOptions
from services.data.domain.original_texts import companion
from services.data.domain.parsing.columns import ColumnInference, ColumnReading, ColumnRule
from services.data.domain.parsing.missing import MISSING, NONE
from services.data.domain.readers.csv_problems import find_problem, find_row
from services.data.domain.readers.dialect import Dialect, find_dialect, names_of, other_delimiter
from services.data.domain.readers.notes import column_notes
from services.data.domain.readers.source import (
    BLOCK_BYTES,
    Batches,
    OpenFile,
    ReadFile,
    check_known,
    check_names,
    check_utf8,
    empty,
)


@dataclass(frozen=True)
class _Columns:
    """A file's columns before its values are looked at.

    Args:
        names: in order.
        start: the byte at which the rows begin.
        dialect: how they are divided.
        may_drop: the last column, whose name is blank, is left out where it has no value.
    """

    names: list[str]
    start: int
    dialect: Dialect
    may_drop: bool


def read_csv(open_file: OpenFile, delimiter: str, options: ImportOptions) -> ReadFile:
    """Return the schema and rows of a CSV file: see `read_file`."""
    try:
        dialect, notes = find_dialect(open_file, delimiter, options)
        row, after = find_row(open_file, dialect)
        names, named = names_of(row, options)
        check_names(names)
    except UnicodeDecodeError:
        check_utf8(open_file)
        raise
    check_known(options, names)
    is_blank = not options.names and not options.no_header and len(row) > 1 and not row[-1].strip()
    columns = _Columns(names, 0 if options.no_header else after, dialect, is_blank)
    rules = [rule_of(name, options) for name in names]
    inferences = [ColumnInference(rule) for rule in rules]
    _look(open_file, columns, inferences)
    _check_given(names, rules, inferences)
    readings: list[ColumnReading | None] = [inference.finish() for inference in inferences]
    if is_blank and not inferences[-1].has_values:
        readings[-1] = None
        named[-1] = f"column {len(row):,} has no name and no value: it is left out"
    found = [(name, *rest) for name, *rest in zip(names, rules, inferences, readings, strict=True) if rest[-1]]
    notes += named + column_notes(found, options.known)  # type: ignore[arg-type]
    return _file(open_file, columns, readings, notes)


def rule_of(name: str, options: ImportOptions) -> ColumnRule:
    """Return what the options say of a column."""
    given, like = options.arrow_types.get(name), options.like_types.get(name)
    missing = options.missing_of(name)
    written = options.date_formats.get(name, "")
    return ColumnRule(
        given=given if given is not None else like,
        is_strict=given is None and like is not None,
        known=options.known_types.get(name),
        missing=missing,
        numbers=options.numbers,
        date_format=written or options.date_formats.get(ALL_COLUMNS, ""),
        is_date_given=bool(written),
        zone=options.zone,
    )


def _look(open_file: OpenFile, columns: _Columns, inferences: list[ColumnInference]) -> None:
    """Read the file once, to check it and to find the columns' types."""
    rows = 0
    try:
        for batch in _checked_texts(open_file, columns):
            for inference, column in zip(inferences, batch.columns, strict=True):
                inference.update(column)
            rows += batch.num_rows
    except (pa.ArrowInvalid, _Unterminated) as error:
        check_utf8(open_file)
        problem = find_problem(open_file, len(columns.names), columns.dialect, error)
        hint = other_delimiter(open_file, columns.dialect) if problem.reason == "RAGGED_ROW" else ""
        raise InvalidArgument(
            f"{problem.message}; {hint}" if hint else problem.message, reason=problem.reason, metadata=problem.metadata
        ) from error
    if not rows:
        raise empty("has a header and no rows")


def _check_given(names: list[str], rules: list[ColumnRule], inferences: list[ColumnInference]) -> None:
    """Refuse values that do not fit the types that were given, naming every column."""
    problems = {
        name: f"the value in data row {inference.problem_row + 1:,} is not a valid {rule.given or rule.date_format}"
        for name, rule, inference in zip(names, rules, inferences, strict=True)
        if inference.problem_row is not None
    }
    if problems:
        raise type_mismatch(problems)


def _file(open_file: OpenFile, columns: _Columns, readings: list[ColumnReading | None], notes: list[str]) -> ReadFile:
    kept = [
        (place, name, reading)
        for place, (name, reading) in enumerate(zip(columns.names, readings, strict=True))
        if reading
    ]
    fields = [pa.field(name, reading.kind) for _, name, reading in kept]
    fields += [pa.field(companion(name), pa.string()) for _, name, reading in kept if reading.keeps_texts]
    schema = pa.schema(fields)

    def rows() -> Batches:
        for batch in _texts(open_file, columns):
            read = [_read(reading, name, batch.column(place)) for place, name, reading in kept]
            arrays = [values for values, _ in read] + [texts for _, texts in read if texts is not None]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    # Text columns keep `None` by default: that is no rule of the file's.
    default = ({*MISSING}, {*MISSING} - {NONE})
    missing = {name: tuple(reading.missing.to_pylist()) for _, name, reading in kept}
    return ReadFile(schema, rows(), notes, {name: texts for name, texts in missing.items() if {*texts} not in default})


def _read(reading: ColumnReading, name: str, texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    try:
        return reading.read(texts)
    except pa.ArrowInvalid as error:
        # A time that microseconds hold, in a column that others made one of nanoseconds.
        raise InvalidArgument(
            f"column {name!r} holds values that no type holds together: import it as text with types={{{name!r}: "
            "'string'}",
            reason="COLUMN_TYPE_MISMATCH",
            metadata={"column": name},
        ) from error


class _Unterminated(Exception):
    """The parser swallowed the row that we put behind the last one: a quote before it never closed."""


def _checked_texts(open_file: OpenFile, columns: _Columns) -> Batches:
    """Yield the rows as texts; at the end, make certain that no quoted field swallowed the rest of the file.

    Arrow takes the end of the file for the end of an open quoted field. So a row of our own is put behind the file: it
    comes back as a row exactly if no field was open.
    """
    mark = uuid.uuid4().hex
    tail = ("\n" + columns.dialect.delimiter.join([mark] * len(columns.names)) + "\n").encode()
    last: pa.RecordBatch | None = None
    for batch in _texts(open_file, columns, tail):
        if last is not None:
            yield last
        last = batch
    if last is None or not last.num_rows or last.column(0)[-1].as_py() != mark:
        raise _Unterminated
    if last.num_rows > 1:
        yield last.slice(0, last.num_rows - 1)


def _texts(open_file: OpenFile, columns: _Columns, tail: bytes = b"") -> Batches:
    options = pacsv.ReadOptions(block_size=BLOCK_BYTES, column_names=columns.names)
    dialect = columns.dialect
    parse = pacsv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        escape_char=dialect.escape or False,
        newlines_in_values=bool(dialect.quote or dialect.escape),
    )
    conversion = pacsv.ConvertOptions(
        column_types=dict.fromkeys(columns.names, pa.string()), null_values=[], strings_can_be_null=False
    )
    with open_file() as file:
        file.seek(columns.start)
        if not columns.start and file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
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
