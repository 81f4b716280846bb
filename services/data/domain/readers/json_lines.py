"""Reads JSON Lines, an object a line, or one array of objects; a name that an object lacks is a missing value.

JSON has types, so nothing is guessed: a column of integers is int64, of integers and other numbers double, of true and
false bool, of strings string, of lists of numbers series; a column of several is of strings, its numbers as their
canonical texts. A number with more digits than int64 or a double holds is a text, so that two ids never become one.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO, TypeAlias, cast

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES
from services.data.domain.original_texts import canonical
from services.data.domain.parsing.numbers import keeps_digits
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
_PIECE_BYTES = 1 << 18
_INT64 = range(-(2**63), 2**63)
_DIGITS = 100


def read_json_lines(open_file: OpenFile) -> tuple[pa.Schema, Callable[[], Batches]]:
    """Return the schema of a file of JSON objects, and what reads its rows."""
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
    return schema, lambda: _batches(open_file, schema)


def _look(row: Mapping[str, Value], kinds: dict[str, set[type]], number: int) -> None:
    """Remember the types of a row's values."""
    for name, value in row.items():
        found = kinds.setdefault(name, set())
        if value is not None:
            # A number that no type holds exactly is a text.
            found.add(_kind(value))
    if len(kinds) > MAX_COLUMNS:
        raise InvalidArgument(
            f"line {number:,}: up to here there are {len(kinds):,} columns, at most {MAX_COLUMNS:,} are taken",
            reason="TOO_MANY_COLUMNS",
        )


def _kind(value: Value) -> type:
    if isinstance(value, str):
        return str
    if type(value) is int and int(float(value)) != value:
        return _LargeInteger
    return type(value)


def _type(kinds: set[type]) -> pa.DataType:
    if kinds and kinds <= {int, _LargeInteger}:
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
    if value is None or isinstance(value, str):
        return value
    # As other numbers' texts are written.
    return str(canonical(pa.array([value]))[0]) if isinstance(value, float) else json.dumps(value)


def _rows(open_file: OpenFile) -> Iterator[tuple[int, dict[str, Value]]]:
    """Yield each object with its line's number."""
    with open_file() as file:
        skip_mark(file)
        for number, line in _objects(file):
            try:
                row = _DECODER.decode(line.decode())
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
                raise _bad(number, f"is no JSON: {_why(error)}") from error
            if not isinstance(row, dict):
                raise _bad(number, "is no JSON object")
            _check_flat(row, number)
            yield number, row


def _objects(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield each object's text with the line that it begins on."""
    start = file.tell()
    beginning = file.read(BLOCK_BYTES).lstrip()[:1]
    file.seek(start)
    return _of_array(file) if beginning == b"[" else _lines(file)


def _of_array(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the texts of the objects of one array."""
    text = _ArrayText(io.TextIOWrapper(file, encoding="utf-8", newline=""))
    text.take("[")
    if text.front() == "]":
        text.take("]")
    else:
        yield text.object()
        while text.front() == ",":
            text.take(",")
            yield text.object()
        text.take("]")
    if text.front():
        raise _bad(text.line, "has something behind the array")


class _ArrayText:
    """A text of one JSON array, held a few objects at a time.

    Args:
        text: from its start.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._held = ""
        self.line = 1

    def front(self) -> str:
        """Return the next character that is no blank; empty at the end."""
        while True:
            left = self._held.lstrip(" \t\r\n")
            self._pass(len(self._held) - len(left))
            if left or not self._more():
                return left[:1]

    def take(self, wanted: str) -> None:
        """Pass over a character."""
        if self.front() != wanted:
            raise _bad(self.line, f"is no array of JSON objects: expected {wanted!r}")
        self._pass(1)

    def object(self) -> tuple[int, bytes]:
        """Return the next object's line and text."""
        if self.front() != "{":
            raise _bad(self.line, "is no JSON object of an array")
        while True:
            try:
                _, end = _DECODER.raw_decode(self._held)
            except json.JSONDecodeError as error:
                # The rest of it may not be here yet.
                if len(self._held) > BLOCK_BYTES or not self._more():
                    raise _bad(self.line, f"is no JSON: {_why(error)}") from error
            except RecursionError as error:
                raise _bad(self.line, "is nested too deeply") from error
            except ValueError as error:
                raise _bad(self.line, f"is no JSON: {error}") from error
            else:
                found = self.line, self._held[:end].encode("utf-8", "surrogatepass")
                self._pass(end)
                return found

    def _pass(self, count: int) -> None:
        self.line += self._held.count("\n", 0, count)
        self._held = self._held[count:]

    def _more(self) -> bool:
        piece = self._text.read(_PIECE_BYTES)
        self._held += piece
        return bool(piece)


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


def _whole(text: str) -> int | str:
    # Python reads no integers of thousands of digits.
    return int(text) if len(text) < _DIGITS and int(text) in _INT64 else _Digits(text)


def _fraction(text: str) -> float | str:
    value = float(text)
    return value if keeps_digits(pa.array([text]), pa.array([value])) else _Digits(text)


class _LargeInteger(int):
    """An integer that no double is equal to."""


class _Digits(str):
    """A number that no type holds exactly, as the file writes it."""

    __slots__ = ()


def _why(error: Exception) -> str:
    # Of the library's words those on the place: others could hold a value.
    return f"{error.msg} at character {error.pos + 1:,}" if isinstance(error, json.JSONDecodeError) else str(error)


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


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_float=_fraction)
