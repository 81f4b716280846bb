"""Changes values' types; what the new type cannot hold exactly is refused, never rounded or cut."""

import re
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES, is_supported

_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=([\w/+:-]{1,64})\]")
_LISTED = 20
NAMES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float", "double", "string"),
    *("date32", "timestamp[s]", "timestamp[ms]", "timestamp[us]", "timestamp[ns]"),
)


def parse_type(name: str) -> pa.DataType:
    """Return the type of a name, Arrow's own or an alias of it, such as float64 for double.

    Raises:
        InvalidArgument: tables hold no such type.
    """
    zoned = _ZONED.fullmatch(name)
    try:
        kind = (
            pa.timestamp(zoned[1], zoned[2]) if zoned else pa.type_for_alias({"date32[day]": "date32"}.get(name, name))
        )
    except ValueError:
        kind = None
    if kind is None or not is_supported(kind):
        raise InvalidArgument(f"unknown type {name!r}: expected one of {', '.join(NAMES)}", reason="UNKNOWN_TYPE")
    return kind


def parse_stored_type(name: str) -> pa.DataType:
    """Return the type of a stored column by its name; unlike a cast's it may be series.

    Raises:
        InvalidArgument: tables hold no such type.
    """
    return SERIES if name == str(SERIES) else parse_type(name)


def check_cast(name: str, source: pa.DataType, target: pa.DataType) -> None:
    """Check that values of one type can be values of another at all.

    Raises:
        InvalidArgument: they cannot.
    """
    try:
        pc.cast(pa.array([], source), target)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise InvalidArgument(f"column {name!r} cannot change from {source} to {target}", reason="BAD_CAST") from error


def cast(name: str, column: pa.Array, target: pa.DataType) -> pa.Array:
    """Return a column's values as another type.

    Raises:
        BadValue: one does not convert.
    """
    if column.type == target:
        return column
    try:
        return _cast(column, target)
    except pa.ArrowInvalid as error:
        # Not the library's words: they hold the value.
        why = f": {error}" if isinstance(error, _Refused) else ""
        raise BadValue(name, _first_bad(column, target), f"is not a valid {target}{why}") from None


class _Refused(pa.ArrowInvalid):  # type: ignore[misc] # Arrow has no types
    """A rule of ours that a value breaks; the message holds no value."""


class BadValue(InvalidArgument):
    """A value that does not convert, named by its place and never by itself: messages are logged.

    Args:
        column: its column.
        row: its row among those looked at, from 0.
        problem: what is wrong, such as `is not a valid int64`.
    """

    def __init__(self, column: str, row: int, problem: str) -> None:
        super().__init__(
            f"the value of column {column!r} in data row {row + 1:,} {problem}",
            reason="VALUE_DOES_NOT_CONVERT",
            metadata={"column": column, "row": str(row + 1)},
        )
        self.column = column
        self.row = row
        self.problem = problem

    def after(self, rows: int) -> "BadValue":
        """Return the same where so many rows come before those looked at."""
        return BadValue(self.column, self.row + rows, self.problem)


def type_mismatch(problems: Mapping[str, str]) -> InvalidArgument:
    """Return the error of columns that do not fit the types asked for.

    Args:
        problems: what is wrong by column, without any value.
    """
    shown = "; ".join(f"{name!r}: {problem}" for name, problem in list(problems.items())[:_LISTED])
    more = f"; and {len(problems) - _LISTED:,} more" if len(problems) > _LISTED else ""
    return InvalidArgument(
        f"{len(problems):,} {'column does' if len(problems) == 1 else 'columns do'} not fit the types asked for: "
        f"{shown}{more}. Import the file again with types={{...}} or like=MODEL, or correct these rows",
        reason="COLUMN_TYPE_MISMATCH",
        metadata={"columns": ",".join(list(problems)[:_LISTED])},
        violations=[(f"types[{name}]", problem) for name, problem in list(problems.items())[:1000]],
    )


def _first_bad(column: pa.Array, target: pa.DataType) -> int:
    """Return the place of the first value that does not convert, by halving."""
    first, end = 0, len(column)
    while end - first > 1:
        middle = (first + end) // 2
        try:
            _cast(column.slice(first, middle - first), target)
        except pa.ArrowInvalid:
            end = middle
        else:
            first = middle
    return first


def _cast(column: pa.Array, target: pa.DataType) -> pa.Array:
    if pa.types.is_string(column.type) and not pa.types.is_string(target):
        column = pc.utf8_trim_whitespace(column)
        # Arrow reads 0x1F as an integer; a table's reader does not.
        if pa.types.is_integer(target) and _any(pc.match_substring(column, "x", ignore_case=True)):
            raise _Refused("hexadecimal numbers are texts")
    if pa.types.is_boolean(target) and not pa.types.is_string(column.type):
        _check_truth(column)
    found = pc.cast(column, target)
    if pa.types.is_floating(target):
        if _any(pc.is_inf(found)):
            raise _Refused("infinity is no value")
        found = pc.if_else(pc.is_nan(found), pa.scalar(None, target), found)
    return found


def _check_truth(column: pa.Array) -> None:
    no, yes = (pa.scalar(value, column.type) for value in (0, 1))
    if _any(pc.and_(pc.not_equal(column, no), pc.not_equal(column, yes))):
        raise _Refused("only 0 and 1 are truth values")


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask, min_count=0).as_py())
