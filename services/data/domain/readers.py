"""Reads an uploaded file as Arrow batches in bounded memory, refusing what is broken with the place where it is.

A file is read twice: once to check it and to find the columns' types, once for its rows.
"""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from servicekit.errors import InvalidArgument
from services.data.domain.inference import convert, infer_schema
from services.data.domain.types import FileFormat

# What counts as a missing value in a CSV file, as in pandas.
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A")
MAX_COLUMNS = 10_000
_BLOCK_BYTES = 4 << 20
_LINES = 16_384

Batches = Iterator[pa.RecordBatch]
OpenFile = Callable[[], BinaryIO]


def read_file(open_file: OpenFile, file_format: FileFormat, delimiter: str = ",") -> tuple[pa.Schema, Batches]:
    """Return a file's schema and rows.

    Args:
        open_file: opens it from the start; called twice.
        file_format: what it is.
        delimiter: of a CSV file.

    Raises:
        InvalidArgument: the file is broken; the reason says how, the message where. May come while rows are read.
    """
    reader = {FileFormat.CSV: _read_csv, FileFormat.PARQUET: _read_parquet, FileFormat.JSON_LINES: _read_json_lines}
    schema, batches = reader[file_format](open_file, delimiter or ",")
    return schema, _checked(batches, schema)


def check_names(names: list[str]) -> None:
    """Check the columns' names.

    Raises:
        InvalidArgument: one is empty or stands twice, or there are none or too many.
    """
    if not names:
        raise InvalidArgument("the file has no columns", reason="EMPTY_FILE")
    if len(names) > MAX_COLUMNS:
        raise InvalidArgument(f"the file has {len(names)} columns, at most {MAX_COLUMNS} are taken", reason="TOO_WIDE")
    for position, name in enumerate(names, 1):
        if not name.strip():
            raise InvalidArgument(f"column {position} has no name", reason="EMPTY_COLUMN_NAME")
        if names.index(name) != position - 1:
            raise InvalidArgument(f"column name {name!r} stands twice", reason="DUPLICATE_COLUMN")


def _read_csv(open_file: OpenFile, delimiter: str) -> tuple[pa.Schema, Batches]:
    _check_text(open_file)
    names = _csv_header(open_file, delimiter)
    check_names(names)

    def texts() -> Batches:
        try:
            with open_file() as file:
                yield from _csv_texts(_without_mark(file), names, delimiter)
        except pa.ArrowInvalid as error:
            raise _csv_problem(open_file, len(names), delimiter, error) from error

    schema = infer_schema(texts, names)
    return schema, (convert(batch, schema) for batch in texts())


def _csv_texts(file: BinaryIO, names: list[str], delimiter: str) -> Batches:
    parse = pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    conversion = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in names}, null_values=list(MISSING), strings_can_be_null=True
    )
    with pacsv.open_csv(file, pacsv.ReadOptions(block_size=_BLOCK_BYTES), parse, conversion) as reader:
        yield from reader


def _csv_problem(open_file: OpenFile, columns: int, delimiter: str, error: pa.ArrowInvalid) -> InvalidArgument:
    """Return what is wrong with a CSV file, found by reading it again slowly: the quick reader does not say where."""
    with open_file() as file:
        text = io.TextIOWrapper(_without_mark(file), encoding="utf-8", newline="")
        try:
            # The header is row 1, as editors count.
            for number, row in enumerate(csv.reader(text, delimiter=delimiter), 1):
                if row and len(row) != columns:
                    return InvalidArgument(
                        f"row {number} has {len(row)} values where the header has {columns} columns: {row[:5]}",
                        reason="RAGGED_ROW",
                        metadata={"row": str(number)},
                    )
        except csv.Error as problem:
            return InvalidArgument(f"the file cannot be read as CSV: {problem}", reason="BAD_CSV")
    return InvalidArgument(f"the file cannot be read as CSV: {_first_line(error)}", reason="BAD_CSV")


def _csv_header(open_file: OpenFile, delimiter: str) -> list[str]:
    with open_file() as file:
        text = io.TextIOWrapper(_without_mark(file), encoding="utf-8", newline="")
        try:
            header = next(csv.reader(text, delimiter=delimiter), [])
        except csv.Error as error:
            raise InvalidArgument(f"cannot read the header: {error}", reason="RAGGED_ROW") from error
        if not header or not any(line.strip() for line in text):
            raise InvalidArgument("the file has no rows", reason="EMPTY_FILE")
        return header


def _check_text(open_file: OpenFile) -> None:
    """Check that a file is UTF-8, and that its last quoted field ends."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = quotes = 0
    with open_file() as file:
        while chunk := file.read(_BLOCK_BYTES):
            _decode(decoder, chunk, position)
            position += len(chunk)
            quotes += chunk.count(b'"')
    if position == 0:
        raise InvalidArgument("the file is empty", reason="EMPTY_FILE")
    _decode(decoder, b"", position, final=True)
    # Only an odd number can leave a field open; finding out for certain is slow, and rarely needed.
    if quotes % 2:
        _check_quotes(open_file)


def _decode(decoder: codecs.IncrementalDecoder, chunk: bytes, position: int, *, final: bool = False) -> None:
    # A character that the last chunk began belongs to the place where it began.
    begun = len(decoder.getstate()[0])
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"the file is not UTF-8: byte {position - begun + error.start} cannot be read; save it as UTF-8",
            reason="NOT_UTF8",
        ) from error


def _check_quotes(open_file: OpenFile) -> None:
    line = 1
    opened = 0
    at_field_start = True
    with open_file() as file:
        while chunk := file.read(_BLOCK_BYTES):
            for character in chunk.decode("utf-8", "replace"):
                if character == '"' and (opened or at_field_start):
                    opened = 0 if opened else line
                line += character == "\n"
                at_field_start = character in ',;\t|\n"'
    if opened:
        raise InvalidArgument(
            f"the quoted field that begins on line {opened} never ends: the file is truncated, or a quote is missing",
            reason="UNTERMINATED_QUOTE",
        )


def _read_parquet(open_file: OpenFile, _: str) -> tuple[pa.Schema, Batches]:
    try:
        file = pq.ParquetFile(open_file())
    except (pa.ArrowException, OSError) as error:
        raise InvalidArgument(
            f"this is no readable Parquet file: {_first_line(error)}", reason="BAD_PARQUET"
        ) from error
    check_names(file.schema_arrow.names)
    schema = pa.schema([pa.field(field.name, _plain_type(field)) for field in file.schema_arrow])
    if file.metadata.num_rows == 0:
        raise InvalidArgument("the file has no rows", reason="EMPTY_FILE")

    def batches() -> Batches:
        try:
            for batch in file.iter_batches(batch_size=_LINES):
                yield batch.cast(schema)
        except (pa.ArrowException, OSError) as error:
            raise InvalidArgument(f"the Parquet file is damaged: {_first_line(error)}", reason="BAD_PARQUET") from error

    return schema, batches()


def _plain_type(field: pa.Field) -> pa.DataType:
    """Return the type that a column is stored as; nested ones are refused."""
    kind = field.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_decimal(kind) or pa.types.is_float16(kind):
        return pa.float64()
    if pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise InvalidArgument(
            f"column {field.name!r} is of type {field.type}, which tables here do not hold: flatten it first",
            reason="UNSUPPORTED_TYPE",
        )
    return kind


def _read_json_lines(open_file: OpenFile, _: str) -> tuple[pa.Schema, Batches]:
    _check_text_only(open_file)
    names: dict[str, None] = {}
    for row in _json_rows(open_file):
        names.update(dict.fromkeys(row))
    if not names:
        raise InvalidArgument("the file has no rows", reason="EMPTY_FILE")
    columns = list(names)
    check_names(columns)

    def texts() -> Batches:
        schema = pa.schema([pa.field(name, pa.string()) for name in columns])
        rows: list[dict[str, str | None]] = []
        for row in _json_rows(open_file):
            rows.append({name: _json_text(row.get(name)) for name in columns})
            if len(rows) == _LINES:
                yield pa.RecordBatch.from_pylist(rows, schema)
                rows = []
        if rows:
            yield pa.RecordBatch.from_pylist(rows, schema)

    # Quoted values are texts even where they look like numbers.
    quoted = {name for row in _json_rows(open_file) for name, value in row.items() if isinstance(value, str)}
    found = infer_schema(texts, columns)
    schema = pa.schema([pa.field(field.name, pa.string() if field.name in quoted else field.type) for field in found])
    return schema, (convert(batch, schema) for batch in texts())


def _json_rows(open_file: OpenFile) -> Iterator[dict[str, object]]:
    with open_file() as file:
        for number, line in enumerate(_without_mark(file), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InvalidArgument(f"line {number} is no JSON: {error}", reason="BAD_JSON") from error
            if not isinstance(row, dict):
                raise InvalidArgument(f"line {number} is no JSON object", reason="BAD_JSON")
            nested = [name for name, value in row.items() if isinstance(value, dict | list)]
            if nested:
                raise InvalidArgument(
                    f"line {number}: {nested[0]!r} holds a nested value, which tables here do not: flatten it first",
                    reason="UNSUPPORTED_TYPE",
                )
            yield row


def _json_text(value: object) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) else json.dumps(value)


def _check_text_only(open_file: OpenFile) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    with open_file() as file:
        while chunk := file.read(_BLOCK_BYTES):
            _decode(decoder, chunk, position)
            position += len(chunk)
    if position == 0:
        raise InvalidArgument("the file is empty", reason="EMPTY_FILE")
    _decode(decoder, b"", position, final=True)


def _checked(batches: Batches, schema: pa.Schema) -> Batches:
    """Refuse infinities, and read NaN as a missing value, which it is everywhere here."""
    floats = [index for index, field in enumerate(schema) if pa.types.is_floating(field.type)]
    row = 0
    for batch in batches:
        cleaned = batch
        for index in floats:
            infinite = pc.is_inf(batch.column(index))
            if pc.any(infinite).as_py():
                place = row + infinite.to_pylist().index(True) + 1
                raise InvalidArgument(
                    f"column {schema.names[index]!r} holds an infinity in data row {place}", reason="INFINITE_VALUE"
                )
            if pc.any(pc.is_nan(batch.column(index))).as_py():
                values = pc.if_else(pc.is_nan(batch.column(index)), None, batch.column(index))
                cleaned = cleaned.set_column(index, schema.field(index), values)
        row += batch.num_rows
        yield cleaned


def _without_mark(file: BinaryIO) -> BinaryIO:
    """Skip a byte order mark."""
    if file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    return file


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200]
