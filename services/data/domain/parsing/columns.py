"""Finds the type of a column of texts from all of its rows: int64, double, bool, timestamp, else string.

A column is of the narrowest type that holds every one of its values exactly, anywhere in the file. It stays
text where a number would lose something: leading zeros (00501), integers beyond 64 bits, more digits than a double has,
dates whose day and month are ambiguous. Blanks around numbers count for nothing; a column without any value is
of strings. A type that is given is taken, or its first value that does not fit is reported. A type that an earlier
version has is kept where all values fit.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from services.data.domain.original_texts import differing
from services.data.domain.parsing.missing import COUNTRIES, MISSING, NA, NONE
from services.data.domain.parsing.numbers import (
    EXACT_INTEGERS,
    NumberFormat,
    as_booleans,
    as_doubles,
    as_integers,
    has_leading_zeros,
    is_all,
    is_any,
    keeps_digits,
)
from services.data.domain.parsing.times import ORDERS, as_times, by_format, looks_like_date

_NUMBER = re.compile(r"\s*[+-]?(\d|[.,]\d|inf)", re.IGNORECASE)
_BOOLEAN = re.compile(r"\s*(true|false)\s*", re.IGNORECASE)
_DECIMAL_COMMA = r"^\s*-?\d+,\d+\s*$"
_ZEROS = r"^\s*[+-]?0\d+([.,]\d*)?\s*$"
_TEXT = pa.string()
Parse = Callable[[pa.Array], pa.Array]


@dataclass(frozen=True)
class ColumnRule:
    """What is said of a column before it is read.

    Args:
        given: its type; None to find it.
        is_strict: whether the given type is another version's, so that values must be written as it writes them.
        known: its type in an earlier version; None for nothing.
        missing: the texts that are missing values; None for the default list with its exceptions.
        numbers: how numbers are written.
        date_format: of strptime; empty for none.
        is_date_given: whether values that are not of the format are refused.
        zone: of times without one.
    """

    given: pa.DataType | None = None
    is_strict: bool = False
    known: pa.DataType | None = None
    missing: tuple[str, ...] | None = None
    numbers: NumberFormat = field(default_factory=NumberFormat)
    date_format: str = ""
    is_date_given: bool = False
    zone: str = ""


@dataclass(frozen=True)
class ColumnReading:
    """How a column's texts become values.

    Args:
        kind: the type.
        missing: the texts that are missing values.
        parse: reads the other texts.
        keeps_texts: whether a text is not the canonical one of its value.
    """

    kind: pa.DataType
    missing: pa.Array
    parse: Parse
    keeps_texts: bool

    def read(self, texts: pa.Array) -> tuple[pa.Array, pa.Array | None]:
        """Return a batch's values, and its companion where texts are kept."""
        values = without(texts, self.missing)
        found = self.parse(values) if values.null_count < len(values) else pa.nulls(len(values), self.kind)
        if not self.keeps_texts:
            return found, None
        # `None` is a missing number and a text: its text is kept.
        texts_kept = pc.if_else(pc.equal(texts, NONE), NONE, values) if NONE in self.missing.to_pylist() else values
        return found, differing(texts_kept, found)


def without(texts: pa.Array, missing: pa.Array) -> pa.Array:
    """Return texts with null in place of missing values."""
    mask = pc.is_in(texts, value_set=missing)
    return pc.if_else(mask, pa.scalar(None, _TEXT), texts) if is_any(mask) else texts


class ColumnInference:
    """Looks at all texts of a column.

    Args:
        rule: what is said of it.
    """

    def __init__(self, rule: ColumnRule) -> None:
        self._rule = rule
        tokens = MISSING if rule.missing is None else rule.missing
        self._missing = pa.array(tokens, _TEXT)
        # What is a text in columns of texts, by default.
        self._soft = (NONE, NA) if rule.missing is None else ()
        self.soft_rows = {NONE: 0, NA: 0}
        self.missing_rows = 0
        self.rows = 0
        self.problem_row: int | None = None
        self._misfit_row: int | None = None
        self._kind: pa.DataType | None = None
        self._parse: Parse = _as_is
        self._orders: list[str] = []
        self._is_large = False
        self._keeps_texts = False
        self._is_canonical = False
        self._is_by_format = False
        self._are_countries = rule.missing is None
        self.has_values = False
        self.why_text = ""
        # Whether the type found from the values is not the one that was kept.
        self.looks_otherwise = False

    def update(self, texts: pa.Array) -> None:
        """Look at the next rows: their texts, none of them null."""
        values = without(texts, self._missing)
        if values.null_count:
            self._count_missing(texts)
        if values.null_count < len(values):
            self._look(values)
        self.rows += len(texts)

    def _count_missing(self, texts: pa.Array) -> None:
        for soft in self._soft:
            self.soft_rows[soft] += pc.sum(pc.equal(texts, soft)).as_py() or 0
        self.missing_rows += pc.sum(pc.and_(pc.is_in(texts, value_set=self._missing), pc.not_equal(texts, ""))).as_py()

    def _look(self, values: pa.Array) -> None:
        self.has_values = True
        if self._are_countries and not self._seems_country(values):
            self._are_countries = False
        if self._are_countries:
            self._are_countries = is_all(pc.is_in(values.drop_null(), value_set=COUNTRIES))
        if self._rule.given is not None or self._rule.is_date_given:
            self._check(values)
            return
        if self._rule.known is not None and self._misfit_row is None and self._rule.known != _TEXT:
            self._misfit_row = self._first_misfit(values, self._as_known)
        if self._kind != _TEXT:
            self._narrow(values)

    def _seems_country(self, values: pa.Array) -> bool:
        # One value decides most columns.
        first = values[0].as_py()
        return first is None or (len(first) == 2 and first.isupper())

    def _check(self, values: pa.Array) -> None:
        if self.problem_row is not None or self._rule.given == _TEXT:
            return
        parse = given_parser(self._rule)
        self.problem_row = self._first_misfit(values, parse)
        if self.problem_row is None:
            found = parse(values)
            self._kind = _finest(found.type, self._kind)
            self._keeps_texts = self._keeps_texts or is_any(pc.is_valid(differing(values, found)))

    def _first_misfit(self, values: pa.Array, parse: Parse) -> int | None:
        place = first_misfit(values, parse)
        return None if place is None else self.rows + place

    def _narrow(self, values: pa.Array) -> None:
        """Widen the type found so far to hold some more values."""
        before = self._kind
        self._is_canonical = False
        try:
            found = self._found(values)
        except pa.ArrowInvalid:
            found = None
        if found is None:
            self._kind, self._parse = _TEXT, _as_is
            return
        self._kind = found.type
        if self._keeps_texts or self._is_canonical:
            return
        # Values that became doubles or finer times later were not compared as such.
        is_other = before is not None and before != found.type
        self._keeps_texts = is_other or is_any(pc.is_valid(differing(values, found)))

    def _found(self, values: pa.Array) -> pa.Array | None:
        """Return values of the narrowest type that fits them and those before; None for texts."""
        if self._kind is None:
            first = values.drop_null()[0].as_py()
            if self._rule.date_format and (found := self._by_format(values)) is not None:
                return found
            if _BOOLEAN.fullmatch(first):
                self._parse = as_booleans
                return as_booleans(values)
            if looks_like_date(first):
                self._orders = list(ORDERS)
            elif not _NUMBER.match(first):
                return None
        elif pa.types.is_boolean(self._kind) or self._is_by_format:
            return self._parse(values)
        return self._times(values) if self._orders else self._number(values)

    def _by_format(self, values: pa.Array) -> pa.Array | None:
        """Return times of the format that is given for every column that fits; None where this one does not."""
        try:
            found = by_format(values, self._rule.date_format, self._rule.zone)
        except pa.ArrowInvalid:
            return None
        self._parse, self._is_by_format = given_parser(self._rule), True
        return found

    def _number(self, values: pa.Array) -> pa.Array | None:
        written = self._rule.numbers
        if (found := self._plain_number(values)) is not None:
            return found
        if has_leading_zeros(values):
            # 01:30 and 01/02 are no codes: nothing reads them as numbers.
            self.why_text = "leading zeros" if is_any(pc.match_substring_regex(values, _ZEROS)) else ""
            return None
        if self._kind is None or pa.types.is_integer(self._kind):
            try:
                found = as_integers(values, written)
            except pa.ArrowInvalid:
                if self._is_large:
                    self.why_text = "more digits than a number holds"
                    return None
            else:
                self._is_large = self._is_large or is_any(pc.greater(pc.abs(found), EXACT_INTEGERS))
                self._parse = lambda some: as_integers(some, written)
                return found
        try:
            found = as_doubles(values, written)
        except pa.ArrowInvalid:
            if written.decimal == "." and is_any(pc.match_substring_regex(values, _DECIMAL_COMMA)):
                self.why_text = "a decimal comma"
            raise
        if not keeps_digits(_with_points(values, written), found):
            self.why_text = "more digits than a number holds"
            return None
        self._parse = lambda some: as_doubles(some, written)
        return found

    def _plain_number(self, values: pa.Array) -> pa.Array | None:
        """Return numbers that are all written canonically, which most columns are: a few calls show it."""
        for kind, parse in ((pa.int64(), as_integers), (pa.float64(), as_doubles)):
            if self._kind not in (None, kind) or self._rule.numbers != NumberFormat():
                continue
            try:
                found = pc.cast(values, kind)
            except pa.ArrowInvalid:
                continue
            if not pc.cast(found, _TEXT).equals(values):
                return None
            if pa.types.is_integer(kind):
                extremes = pc.min_max(found).as_py()
                self._is_large = self._is_large or max(extremes["max"], -extremes["min"]) > EXACT_INTEGERS
            self._parse = partial(parse, written=NumberFormat())
            self._is_canonical = True
            return found
        return None

    def _times(self, values: pa.Array) -> pa.Array | None:
        found: dict[str, pa.Array] = {}
        for order in self._orders:
            try:
                found[order] = as_times(values, order, self._rule.zone)
            except pa.ArrowInvalid:
                continue
        self._orders = list(found)
        if not found:
            return None
        first = next(iter(found.values()))
        if self._kind is not None and first.type.tz != self._kind.tz:
            return None
        unit = "ns" if "ns" in (first.type.unit, getattr(self._kind, "unit", "us")) else "us"
        kind = pa.timestamp(unit, first.type.tz)
        order = self._orders[0]
        self._parse = lambda some: pc.cast(as_times(some, order, self._rule.zone), kind)
        return pc.cast(first, kind)

    def finish(self) -> ColumnReading:
        """Return how the column is read."""
        if self._rule.given is not None or self._rule.is_date_given:
            return self._given()
        if len(self._orders) > 1:
            self._kind, self._parse, self.why_text = _TEXT, _as_is, "dates whose day and month are ambiguous"
        known = self._rule.known
        if known is not None and known != self._kind and (self._misfit_row is None or known == _TEXT):
            self.looks_otherwise = self._kind is not None
            return self._reading(known, _as_is if known == _TEXT else self._as_known, keeps_texts=True)
        return self._reading(self._kind or _TEXT, self._parse, self._keeps_texts)

    def _as_known(self, texts: pa.Array) -> pa.Array:
        assert self._rule.known is not None  # asked only where it is
        return as_exactly(texts, self._rule.known, self._rule)

    def _given(self) -> ColumnReading:
        kind = self._rule.given or self._kind or pa.timestamp("us")
        parse = given_parser(self._rule)
        return self._reading(kind, lambda some: pc.cast(parse(some), kind), self._keeps_texts)

    def _reading(self, kind: pa.DataType, parse: Parse, keeps_texts: bool) -> ColumnReading:
        missing = self._missing
        if kind == _TEXT:
            kept = self.texts_kept()
            if kept:
                missing = missing.filter(pc.invert(pc.is_in(missing, value_set=pa.array(kept, _TEXT))))
            return ColumnReading(kind, missing, _as_is, False)
        return ColumnReading(kind, missing, parse, keeps_texts or self.soft_rows[NONE] > 0)

    def texts_kept(self) -> list[str]:
        """Return which of the default missing texts are texts here, if the column is of strings."""
        if not self._soft:
            return []
        return [NONE, NA] if self._are_countries and self.has_values else [NONE]

    @property
    def misfit_row(self) -> int | None:
        """The first row, from 0, that does not fit the earlier version's type."""
        return self._misfit_row


def given_parser(rule: ColumnRule) -> Parse:
    """Return what reads texts as the type that was given; ArrowInvalid where one does not fit."""
    if rule.date_format and (rule.given is None or pa.types.is_temporal(rule.given)):
        kind = rule.given
        if kind is None:
            return lambda some: by_format(some, rule.date_format, rule.zone)
        return lambda some: _as_temporal(by_format(some, rule.date_format, rule.zone), kind)
    given = rule.given
    assert given is not None  # a column without a given type is not read by this
    if rule.is_strict:
        return lambda some: as_exactly(some, given, rule)
    return lambda some: parse_as(some, given, rule.numbers, rule.zone)


def parse_as(texts: pa.Array, kind: pa.DataType, written: NumberFormat, zone: str = "") -> pa.Array:
    """Return texts as a type; ArrowInvalid where one does not fit exactly."""
    if pa.types.is_string(kind):
        return texts
    if pa.types.is_boolean(kind):
        plain = pc.utf8_trim_whitespace(texts)
        plain = pc.if_else(pc.equal(plain, "1"), "true", pc.if_else(pc.equal(plain, "0"), "false", plain))
        return as_booleans(plain)
    if pa.types.is_integer(kind):
        try:
            return pc.cast(as_integers(texts, written), kind)
        except pa.ArrowInvalid:
            doubles = as_doubles(texts, written)
            if not keeps_digits(_with_points(texts, written), doubles):
                raise
            return pc.cast(pc.cast(doubles, pa.int64()), kind)
    if pa.types.is_floating(kind):
        return pc.cast(as_doubles(texts, written), kind)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _as_temporal(_any_order(texts, zone), kind)
    if pa.types.is_time(kind):
        whole = pc.binary_join_element_wise("1970-01-01", pc.utf8_trim_whitespace(texts), " ")
        return pc.cast(as_times(whole, "ymd"), kind)
    raise pa.ArrowInvalid("texts of no such type")


def first_misfit(values: pa.Array, parse: Parse) -> int | None:
    """Return the place of the first text that cannot be read, by halving; None where all can."""
    if _fits(values, parse):
        return None
    first, end = 0, len(values)
    while end - first > 1:
        middle = (first + end) // 2
        if _fits(values.slice(first, middle - first), parse):
            first = middle
        else:
            end = middle
    return first


def _fits(values: pa.Array, parse: Parse) -> bool:
    try:
        parse(values)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def as_exactly(texts: pa.Array, kind: pa.DataType, rule: ColumnRule) -> pa.Array:
    """Return texts as another version's type: no digit is lost, and 0 and 1 are no truth values."""
    if pa.types.is_boolean(kind):
        return as_booleans(texts)
    found = parse_as(texts, kind, rule.numbers, rule.zone)
    if pa.types.is_floating(kind) and not keeps_digits(_with_points(texts, rule.numbers), found.cast(pa.float64())):
        raise pa.ArrowInvalid("more digits than a number holds")
    return found


def _any_order(texts: pa.Array, zone: str) -> pa.Array:
    found = []
    for order in ORDERS:
        try:
            found.append(as_times(texts, order, zone))
        except pa.ArrowInvalid:
            continue
    if not found or any(not one.equals(found[0]) for one in found[1:]):
        raise pa.ArrowInvalid("no date, or one of two")
    return found[0]


def _as_temporal(values: pa.Array, kind: pa.DataType) -> pa.Array:
    zone = getattr(kind, "tz", None)
    if pa.types.is_timestamp(kind) and (zone is None) != (values.type.tz is None):
        raise pa.ArrowInvalid("a zone is missing, or too much")
    return pc.cast(values, kind)


def _finest(one: pa.DataType, other: pa.DataType | None) -> pa.DataType:
    if other is None:
        return one
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other) and one.tz == other.tz:
        return pa.timestamp("ns" if "ns" in (one.unit, other.unit) else "us", one.tz)
    return other


def _with_points(texts: pa.Array, written: NumberFormat) -> pa.Array:
    """Return numbers' texts as they are written with a decimal point and no other mark."""
    plain = pc.replace_substring(texts, written.thousands, "") if written.thousands else texts
    return plain if written.decimal == "." else pc.replace_substring(plain, written.decimal, ".")


def _as_is(texts: pa.Array) -> pa.Array:
    return texts
