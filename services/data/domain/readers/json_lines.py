"""Reads JSON Lines: an object a line; a name that a line lacks is a missing value.

JSON has types, so nothing is guessed: a column of integers is int64, of integers and other numbers double, of true and
false bool, of strings string, of lists of numbers series; a column of several is of strings, its numbers as JSON
writes them.
"""

import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO, TypeAlias, cast

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES
from services.data.domain.readers.source import (
    BATCH_ROWS,
    BLOCK_BYTES,
    MAX_COLUMNS,
    Batches,
    OpenFile,
    check_names,
    check_utf8,
    empty,
    skip_mark,
)

Value: TypeAlias = str | int | float | bool | list[float | None] | None
_BATCH_VALUES = 1_000_000
_INT64 = range(-(2**63), 2**63)


def read_json_lines(open_file: OpenFile, _: str) -> tuple[pa.Schema, Batches]:
    """Return the schema and rows of a file of JSON Lines: see `read_file`."""
    kinds: dict[str, set[type]] = {}
    rows = 0
    try:
        for number, row in _rows(open_file):
            rows += 1
            _look(row, kinds, number)
    except UnicodeDecodeError:
        check_utf8(open_file)
        raise
    if not rows or not kinds:
        raise empty("has no rows" if not rows else "has no columns")
    check_names(list(kinds))
    schema = pa.schema([pa.field(name, _type(found)) for name, found in kinds.items()])
    return schema, _batches(open_file, schema)


def _look(row: Mapping[str, Value], kinds: dict[str, set[type]], number: int) -> None:
    """Remember the types of a row's values."""
    for name, value in row.items():
        found = kinds.setdefault(name, set())
        if value is not None:
            kind = type(value)
            # An integer beyond 64 bits is a double, as in CSV.
            found.add(float if kind is int and value not in _INT64 else kind)
    if len(kinds) > MAX_COLUMNS:
        raise InvalidArgument(
            f"line {number:,}: up to here there are {len(kinds):,} columns, at most {MAX_COLUMNS:,} are taken",
            reason="TOO_MANY_COLUMNS",
        )


def _type(kinds: set[type]) -> pa.DataType:
    if kinds == {int}:
        return pa.int64()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {list}:
        return SERIES
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def _batches(open_file: OpenFile, schema: pa.Schema) -> Batches:
    rows: list[dict[str, Value]] = []
    values = 0
    for _, row in _rows(open_file):
        rows.append(row)
        values += len(schema) + sum(len(value) for value in row.values() if isinstance(value, list))
        # A Python value takes some 50 bytes: a batch of a wide table, or of long series, has fewer rows.
        if len(rows) >= BATCH_ROWS or values >= _BATCH_VALUES:
            yield _batch(rows, schema)
            rows, values = [], 0
    if rows:
        yield _batch(rows, schema)


def _batch(rows: list[dict[str, Value]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if pa.types.is_string(field.type):
            arrays.append(pa.array([_text(value) for value in values], pa.string()))
        elif pa.types.is_floating(field.type):
            numbers = cast(list[float | None], values)
            arrays.append(pa.array([None if value is None else float(value) for value in numbers], pa.float64()))
        else:
            arrays.append(pa.array(values, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _text(value: Value) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _rows(open_file: OpenFile) -> Iterator[tuple[int, dict[str, Value]]]:
    """Yield each object with its line's number."""
    with open_file() as file:
        skip_mark(file)
        for number, line in _lines(file):
            try:
                row = json.loads(line.decode(), object_pairs_hook=_object)
                if b"\\u" in line:
                    # Half of a surrogate pair can be escaped in JSON, and is no text.
                    json.dumps(row, ensure_ascii=False).encode()
            except UnicodeDecodeError:
                raise
            except UnicodeEncodeError as error:
                raise _bad(number, "holds half of a surrogate pair, which is no text") from error
            except RecursionError as error:
                raise _bad(number, "is nested too deeply") from error
            except (ValueError, OverflowError) as error:
                raise _bad(number, f"is no JSON: {error}") from error
            if not isinstance(row, dict):
                raise _bad(number, "is no JSON object")
            _check_flat(row, number)
            yield number, row


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(BLOCK_BYTES):
        number += 1
        if len(line) >= BLOCK_BYTES and not line.endswith(b"\n"):
            raise InvalidArgument(f"line {number:,} is longer than {BLOCK_BYTES:,} bytes", reason="ROW_TOO_LONG")
        if line.strip():
            yield number, line
    if not number:
        raise empty("is empty")


def _object(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return row


def _check_flat(row: Mapping[str, object], number: int) -> None:
    nested = next(
        (name for name, value in row.items() if isinstance(value, dict | list) and not _is_series(value)), None
    )
    if nested is not None:
        raise InvalidArgument(
            f"line {number:,}: {nested[:100]!r} holds a nested value, which tables do not: flatten it first (a list of "
            "numbers alone is a series)",
            reason="UNSUPPORTED_TYPE",
            metadata={"line": str(number)},
        )


def _is_series(value: object) -> bool:
    # A number beyond what doubles hold is none of a series.
    return isinstance(value, list) and all(
        item is None or type(item) is float or (type(item) is int and item in _INT64) for item in value
    )


def _bad(number: int, what: str) -> InvalidArgument:
    return InvalidArgument(f"line {number:,} {what}", reason="BAD_JSON", metadata={"line": str(number)})
