"""Detects a CSV file's delimiter and column names from its first rows."""

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from servicekit.errors import InvalidArgument
from services.data.domain.import_options import ImportOptions
from services.data.domain.readers.source import OpenFile, skip_mark

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_SAMPLE_BYTES = 64 << 10
_SAMPLE_ROWS = 200
_DECLARED = re.compile(rb"sep=([,;|\t])\r?\n")


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is divided.

    Args:
        delimiter: between values.
        quote: around values; empty for none.
        escape: takes the meaning from the next character; empty for none.
    """

    delimiter: str
    quote: str = '"'
    escape: str = ""

    def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        """Return Python's reader of lines divided like this."""
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote or None,
            quoting=csv.QUOTE_MINIMAL if self.quote else csv.QUOTE_NONE,
            escapechar=self.escape or None,
        )


def find_dialect(open_file: OpenFile, delimiter: str, options: ImportOptions) -> tuple[Dialect, list[str]]:
    """Return how a file is divided, and notes on what was found.

    Args:
        open_file: opens it, as UTF-8.
        delimiter: between values; empty to find it.
        options: of the import.

    Raises:
        InvalidArgument: the delimiter, quote or escape cannot be one.
    """
    quote = {"": '"', "none": ""}.get(options.quote, options.quote)
    if len(quote) > 1:
        raise InvalidArgument("expected one character, or none, as the quote", reason="BAD_OPTIONS")
    used = [one for one in (quote, options.escape, options.comment, delimiter) if one]
    if len(set(used)) != len(used) or any(not one.isascii() or one in "\r\n\0" for one in used):
        raise InvalidArgument(
            "delimiter, quote, escape and comment must be different characters of ASCII", reason="BAD_OPTIONS"
        )
    rows = _columns(open_file, Dialect(",", quote, options.escape))
    if delimiter:
        check_delimiter(delimiter)
        return Dialect(delimiter, quote, options.escape), _hints(rows, delimiter)
    found = _found(rows)
    notes = (
        [f"the delimiter is a {DELIMITERS[found]}, found from the header and the first rows"] if found != "," else []
    )
    return Dialect(found, quote, options.escape), notes


def declared_delimiter(open_file: OpenFile) -> str:
    """Return the delimiter that a first line such as `sep=;` declares, as spreadsheets write it; empty for none."""
    with open_file() as file:
        skip_mark(file)
        found = _DECLARED.match(file.read(8))
    return found[1].decode() if found else ""


def check_delimiter(delimiter: str) -> None:
    """Check that a character may separate the values of a row.

    Raises:
        InvalidArgument: it cannot.
    """
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter.isalnum() or delimiter in '"\r\n\0.-+ ':
        raise InvalidArgument(
            f"{delimiter!r} cannot be a delimiter: expected one character such as a comma, semicolon, tab or pipe",
            reason="BAD_DELIMITER",
        )


def other_delimiter(open_file: OpenFile, dialect: Dialect) -> str:
    """Return a hint at the delimiter that divides the header where the dialect's does not; empty for none."""
    return "".join(_hints(_columns(open_file, dialect), dialect.delimiter))


def names_of(row: list[str], options: ImportOptions) -> tuple[list[str], list[str]]:
    """Return the columns' names of a header, or of the first row where there is none, and notes.

    The first name may be blank, as R and pandas write row names; other blank names become column_2, ...

    Raises:
        InvalidArgument: other names were given than there are columns.
    """
    if options.names:
        if len(options.names) != len(row):
            raise InvalidArgument(
                f"{len(options.names):,} names are given for {len(row):,} columns", reason="RAGGED_ROW"
            )
        return list(options.names), []
    if options.no_header:
        return [f"column_{number}" for number in range(1, len(row) + 1)], []
    names, notes = list(row), []
    taken = set(row)
    for place, name in enumerate(row):
        if not name.strip():
            wanted = ["index", "row"] if place == 0 else []
            options_left = itertools.chain(
                wanted, [f"column_{place + 1}"], (f"column_{place + 1}_{n}" for n in itertools.count(2))
            )
            names[place] = next(one for one in options_left if one not in taken)
            taken.add(names[place])
            notes.append(f"column {place + 1} has no name in the header: it is called {names[place]!r}")
    return names, notes


def _columns(open_file: OpenFile, dialect: Dialect) -> dict[str, list[int]]:
    """Return how many values the first rows have by each delimiter; the header's come first."""
    with open_file() as file:
        skip_mark(file)
        # A character that the sample cuts is no reason to stop: the whole file is checked later.
        text = file.read(_SAMPLE_BYTES).decode("utf-8", "replace")
    lines = text.splitlines(keepends=True)
    if len(text.encode()) >= _SAMPLE_BYTES and len(lines) > 1:
        lines.pop()
    found = {}
    for delimiter in (*DELIMITERS, dialect.delimiter):
        reader = Dialect(delimiter, dialect.quote, dialect.escape).reader(lines)
        try:
            rows = [row for row in itertools.islice(reader, _SAMPLE_ROWS) if any(row)]
        except csv.Error:
            continue
        found[delimiter] = [len(row) for row in rows]
    return found


def _found(rows: dict[str, list[int]]) -> str:
    several = {delimiter: counts for delimiter, counts in rows.items() if counts and counts[0] > 1}
    even = [delimiter for delimiter, counts in several.items() if len(set(counts)) == 1]
    if "," in several and ("," in even or not even):
        return ","
    if even:
        return max(even, key=lambda delimiter: several[delimiter][0])
    # A ragged file is refused by the delimiter that divides its rows, not read as one column of texts.
    ragged = [
        delimiter for delimiter, counts in several.items() if sum(count > 1 for count in counts) * 2 > len(counts)
    ]
    return max(ragged, key=lambda delimiter: several[delimiter][0]) if ragged else ","


def _hints(rows: dict[str, list[int]], delimiter: str) -> list[str]:
    counts = rows.get(delimiter, [])
    if counts and counts[0] > 1:
        return []
    others = [(found[0], other) for other, found in rows.items() if other != delimiter and found and found[0] > 1]
    if not others:
        return []
    columns, other = max(others)
    named = DELIMITERS.get(other, other)
    return [f"the header is one column by the delimiter {delimiter!r}, and {columns:,} by a {named}: was it meant?"]
