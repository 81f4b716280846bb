"""How a file is read, where the defaults do not fit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.casts import parse_stored_type, parse_type
from services.data.domain.parsing.numbers import NumberFormat
from services.data.domain.parsing.times import check_format, check_zone

# Blanks among them: plain, without a break, and narrow without a break.
_THOUSANDS = ("", ".", ",", " ", "'", "_", "\u00a0", "\u202f", "\u2019")
COMPRESSIONS = ("", "none", "gzip", "bz2", "xz", "zstd", "zip")
ALL_COLUMNS = "*"
_WRITING = ("decimal", "thousands", "date_formats", "zone", "missing", "column_missing")


@dataclass(frozen=True)
class KnownColumn:
    """A column of an earlier version of the dataset, or of one that the file is to be like.

    Args:
        arrow_type: its type.
        origin: the version, as name@number.
    """

    arrow_type: str
    origin: str


@dataclass(frozen=True)
class ImportOptions:
    """What a caller says of a file.

    Args:
        types: Arrow type name by column; values that do not fit are refused.
        like: a dataset version whose types and missing texts count as if they were given.
        missing: the texts that are missing values; None for the default list.
        column_missing: the same by column.
        decimal, thousands: how numbers are written.
        quote: of a CSV file; empty for a double quote, `none` for no quoting.
        escape: takes the meaning from the next character; empty for none.
        no_header: whether the first line is a row.
        names: of the columns, in place of the header's.
        skip: lines before the header.
        comment: begins lines to skip; empty for none.
        date_formats: of strptime, by column; `*` for every column that fits.
        zone: of times without one; empty: they stay without.
        compression: one of COMPRESSIONS; empty: detected by the first bytes.
        known: columns of the dataset's newest version, whose types are kept where values fit.
        known_missing: the missing texts of that version's columns, where they are not the default list.
        likes: columns of the version that `like` names, whose types values must fit.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    like: str = ""
    missing: tuple[str, ...] | None = None
    column_missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    decimal: str = ""
    thousands: str = ""
    quote: str = ""
    escape: str = ""
    no_header: bool = False
    names: tuple[str, ...] = ()
    skip: int = 0
    comment: str = ""
    date_formats: Mapping[str, str] = field(default_factory=dict)
    zone: str = ""
    compression: str = ""
    known: Mapping[str, KnownColumn] = field(default_factory=dict)
    known_missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    likes: Mapping[str, KnownColumn] = field(default_factory=dict)

    @property
    def numbers(self) -> NumberFormat:
        """How numbers are written."""
        return NumberFormat(self.decimal or ".", self.thousands)

    @property
    def text_options(self) -> list[str]:
        """The names of the options in use that only text files have."""
        names = ("decimal", "thousands", "quote", "escape", "no_header", "names", "skip", "comment", "compression")
        return [name for name in names if getattr(self, name)]

    def missing_of(self, column: str) -> tuple[str, ...] | None:
        """Return the texts that are missing values of a column; None for the default list."""
        return self.column_missing.get(column, self.known_missing.get(column, self.missing))

    def writes_as(self, other: "ImportOptions") -> bool:
        """Return whether two files write numbers, dates and missing values alike, as far as is said."""
        return all(getattr(self, name) == getattr(other, name) for name in _WRITING)

    @cached_property
    def arrow_types(self) -> dict[str, pa.DataType]:
        """Return the given types as Arrow's.

        Raises:
            InvalidArgument: one is unknown.
        """
        return {name: parse_type(kind) for name, kind in self.types.items()}

    @cached_property
    def known_types(self) -> dict[str, pa.DataType]:
        """Return the types of the dataset's newest version."""
        return _types_of(self.known)

    @cached_property
    def like_types(self) -> dict[str, pa.DataType]:
        """Return the types of the version that the file is to be like."""
        return _types_of(self.likes)

    def check(self) -> None:
        """Check the options by themselves.

        Raises:
            InvalidArgument: one cannot be, or two exclude each other.
        """
        _ = self.arrow_types
        check_zone(self.zone)
        for written in self.date_formats.values():
            check_format(written)
        if self.compression not in COMPRESSIONS:
            raise InvalidArgument(
                f"unknown compression {self.compression!r}: expected one of {', '.join(COMPRESSIONS[1:])}",
                reason="UNKNOWN_COMPRESSION",
            )
        decimal = self.numbers.decimal
        if decimal not in (".", ",") or self.thousands == decimal or self.thousands not in _THOUSANDS:
            raise InvalidArgument(
                "the decimal mark is a point or a comma, the mark of thousands another one of: . , ' _ blank",
                reason="BAD_NUMBER_FORMAT",
            )
        both = sorted(set(self.types) & set(self.date_formats))
        if any(not self.types[name].startswith(("timestamp", "date")) for name in both):
            raise InvalidArgument(
                f"a date format and a type that is no time are given for {', '.join(map(repr, both))}",
                reason="BAD_OPTIONS",
            )


def _types_of(columns: Mapping[str, KnownColumn]) -> dict[str, pa.DataType]:
    return {name: parse_stored_type(column.arrow_type) for name, column in columns.items()}
