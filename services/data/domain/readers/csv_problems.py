"""Reads CSV slowly and in small pieces: for the header, and to say what is wrong where the quick parser gave up."""

import csv
import io
from collections.abc import Iterator

from servicekit.errors import InvalidArgument
from services.data.domain.readers.dialect import Dialect
from services.data.domain.readers.source import BLOCK_BYTES, OpenFile, empty, skip_mark

# The most that one value may hold; the library's own limit is far lower. Set here, for its parser is ours alone.
csv.field_size_limit(BLOCK_BYTES)


def find_row(open_file: OpenFile, dialect: Dialect) -> tuple[list[str], int]:
    """Return the first row, which is the header where there is one, and the byte after it.

    Raises:
        InvalidArgument: the file is empty, or its header is no row.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_file() as file:
        position = skip_mark(file)
        lines = _Lines(io.TextIOWrapper(file, encoding="utf-8", newline=""), dialect.delimiter)
        begin = 1
        try:
            for row in dialect.reader(lines):
                if lines.is_end(row):
                    break
                if lines.is_open_quote(row):
                    raise _open_quote(begin)
                if len(row) > 1 or any(value.strip() for value in row):
                    return row, position + lines.bytes
                begin = lines.count + 1
        except csv.Error as error:
            raise _open_quote(begin) from error
    raise empty("holds nothing but blank lines" if lines.bytes else "is empty")


def find_problem(open_file: OpenFile, columns: int, dialect: Dialect, error: BaseException) -> InvalidArgument:
    """Return what is wrong with a CSV file whose header is sound and whose text is UTF-8.

    Args:
        open_file: opens it from the start.
        columns: how many the header has.
        dialect: how it is divided.
        error: what the quick parser said.
    """
    with open_file() as file:
        skip_mark(file)
        lines = _Lines(io.TextIOWrapper(file, encoding="utf-8", newline=""), dialect.delimiter)
        begin = 1
        try:
            # The header is row 1, as editors count.
            for number, row in enumerate(dialect.reader(lines), 1):
                if lines.is_end(row):
                    break
                if lines.is_open_quote(row):
                    return _open_quote(begin)
                if row and len(row) != columns:
                    return _ragged(number, begin, row, columns)
                begin = lines.count + 1
        except csv.Error as problem:
            return _open_quote(begin) if "field larger" in str(problem) else _bad(problem)
        except InvalidArgument as problem:
            return problem
    if "straddling" in str(error):
        return _too_long(begin)
    return _bad(error)


# No text of a file: half of a surrogate pair is no UTF-8.
_MARK = "\ud800"


class _Lines(Iterator[str]):
    """A text's lines, none longer than a block, with a row of marks behind the last one.

    The parser takes the text's end for the end of an open quoted field; with the marks it does not look the same.
    """

    def __init__(self, text: io.TextIOWrapper, delimiter: str) -> None:
        self._text = text
        self._last = [_MARK + delimiter + _MARK]
        self.count = 0
        self.bytes = 0

    def __next__(self) -> str:
        line = self._text.readline(BLOCK_BYTES)
        if not line:
            if not self._last:
                raise StopIteration
            return self._last.pop()
        if len(line) >= BLOCK_BYTES and not line.endswith(("\n", "\r")):
            raise _too_long(self.count + 1)
        self.count += 1
        self.bytes += len(line.encode())
        return line

    def is_end(self, row: list[str]) -> bool:
        """Return whether a row is the one behind the last."""
        return row == [_MARK, _MARK]

    def is_open_quote(self, row: list[str]) -> bool:
        """Return whether a row ended only because the text did."""
        return bool(row) and row[-1].endswith(_MARK)


def _ragged(number: int, line: int, row: list[str], columns: int) -> InvalidArgument:
    place = "" if line == number else f" (line {line:,})"
    # Not the values: messages are logged, and rows are the user's own.
    return InvalidArgument(
        f"row {number:,} has {len(row):,} values where the header has {columns:,} columns{place}",
        reason="RAGGED_ROW",
        metadata={"row": str(number), "line": str(line)},
    )


def _open_quote(line: int) -> InvalidArgument:
    return InvalidArgument(
        f"the row that begins on line {line:,} has a quoted field that never ends, or not within {BLOCK_BYTES:,} "
        "characters: the file is truncated, or a quote is missing",
        reason="UNTERMINATED_QUOTE",
        metadata={"line": str(line)},
    )


def _too_long(line: int) -> InvalidArgument:
    return InvalidArgument(
        f"the row that begins on line {line:,} or the one after it is longer than {BLOCK_BYTES:,} bytes",
        reason="ROW_TOO_LONG",
        metadata={"line": str(line)},
    )


def _bad(error: BaseException) -> InvalidArgument:
    # Not the library's words: they hold the row.
    return InvalidArgument(
        "the file cannot be read as CSV: give delimiter, quote, escape or encoding where they are not the usual ones",
        reason="BAD_CSV",
    )
