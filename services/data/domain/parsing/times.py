"""Reads texts as times: ISO 8601, numeric dates in three orders, or a format of strptime.

Times are timestamp[us], or timestamp[ns] where a text has more than six digits of a second. Texts with a zone or an
offset become UTC; texts with and without one do not go together. What is no time as a whole raises pa.ArrowInvalid.
"""

import re
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.data.domain.parsing.numbers import is_all, is_any

# Day before month is written with points, too; month before day is not.
ORDERS = ("ymd", "dmy", "mdy")
_DATES = {
    "ymd": r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})",
    "dmy": r"(?P<d>\d{1,2})[-/.](?P<m>\d{1,2})[-/.](?P<y>\d{4})",
    "mdy": r"(?P<m>\d{1,2})[-/](?P<d>\d{1,2})[-/](?P<y>\d{4})",
}
_TIME = r"(?:[ T]+(?P<h>\d{1,2}):(?P<min>\d{2})(?::(?P<s>\d{2})(?:[.,](?P<f>\d{1,9}))?)?\s*(?P<half>[AaPp][Mm])?)?"
_OFFSET = r"\s*(?P<z>Z|UTC|[+-]\d{2}:?\d{2}|[+-]\d{2})?"
_LIKE_DATE = re.compile(r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4})(?!\d)")
_ISO = (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.timestamp("ns"), pa.timestamp("ns", "UTC"))


def looks_like_date(text: str) -> bool:
    """Return whether a text begins as a numeric date does."""
    return _LIKE_DATE.match(text) is not None


def as_times(texts: pa.Array, order: str, zone: str = "") -> pa.Array:
    """Return texts as times.

    Args:
        texts: null where missing.
        order: one of ORDERS.
        zone: of texts without one; empty: they stay without.
    """
    trimmed = pc.utf8_trim_whitespace(texts)
    if order == "ymd":
        for kind in _ISO:
            try:
                return _in_zone(pc.cast(trimmed, kind), zone)
            except pa.ArrowInvalid:
                continue
    return _in_zone(_numeric(trimmed, order), zone)


def by_format(texts: pa.Array, written: str, zone: str = "") -> pa.Array:
    """Return texts of a format of strptime as times."""
    distinct = texts.dictionary_encode() if len(texts) else pa.array([], pa.string()).dictionary_encode()
    try:
        found = [datetime.strptime(text.strip(), written) for text in distinct.dictionary.to_pylist()]
    except ValueError:
        raise pa.ArrowInvalid("not of the format") from None
    zoned = {one.tzinfo is not None for one in found}
    if len(zoned) > 1:
        raise pa.ArrowInvalid("some with a zone and some without")
    if zoned == {True}:
        values = pa.array([one.astimezone(UTC) for one in found], pa.timestamp("us", "UTC"))
    else:
        values = pa.array(found, pa.timestamp("us"))
    return _in_zone(values.take(distinct.indices), zone)


def check_zone(zone: str) -> None:
    """Check a time zone's name.

    Raises:
        InvalidArgument: there is no such zone.
    """
    try:
        if zone:
            zoneinfo.ZoneInfo(zone)
    except (ValueError, OSError, LookupError) as error:
        raise InvalidArgument(
            f"unknown time zone {zone!r}: expected a name such as Europe/Berlin or UTC", reason="UNKNOWN_ZONE"
        ) from error


def check_format(written: str) -> None:
    """Check a format of dates.

    Raises:
        InvalidArgument: it is none.
    """
    try:
        datetime.strptime(datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC).strftime(written), written)
    except (ValueError, re.error) as error:
        raise InvalidArgument(
            f"{written!r} is no date format: expected strptime's codes, such as %d.%m.%Y %H:%M",
            reason="BAD_DATE_FORMAT",
        ) from error


def _in_zone(values: pa.Array, zone: str) -> pa.Array:
    if not zone or values.type.tz is not None:
        return values
    return pc.assume_timezone(values, zone).cast(pa.timestamp(values.type.unit, "UTC"))


def _numeric(texts: pa.Array, order: str) -> pa.Array:
    parts = pc.extract_regex(texts, f"^{_DATES[order]}{_TIME}{_OFFSET}$")
    if parts.null_count > texts.null_count:
        raise pa.ArrowInvalid("no date")
    # Flattened, for the parts of a missing text are missing, too.
    part = dict(zip(parts.type.names, parts.flatten(), strict=True))
    zones, fractions = part["z"], part["f"]
    is_zoned = pc.not_equal(zones, "")
    if is_any(is_zoned) and not is_all(is_zoned):
        raise pa.ArrowInvalid("some with a zone and some without")
    unit = "ns" if is_any(pc.greater(pc.utf8_length(fractions), 6)) else "us"
    date = pc.binary_join_element_wise(part["y"], pc.utf8_lpad(part["m"], 2, "0"), pc.utf8_lpad(part["d"], 2, "0"), "-")
    clock = pc.binary_join_element_wise(_hours(part), _or_zero(part["min"]), _or_zero(part["s"]), ":")
    whole = pc.binary_join_element_wise(date, clock, " ")
    if unit == "ns" or is_any(pc.not_equal(fractions, "")):
        digits = 9 if unit == "ns" else 6
        whole = pc.binary_join_element_wise(whole, pc.utf8_rpad(fractions, digits, "0"), ".")
    if not is_any(is_zoned):
        return pc.cast(whole, pa.timestamp(unit))
    zones = pc.replace_substring_regex(zones, "^UTC$", "Z")
    return pc.cast(pc.binary_join_element_wise(whole, zones, ""), pa.timestamp(unit, "UTC"))


def _hours(part: Mapping[str, pa.Array]) -> pa.Array:
    hours, half = part["h"], pc.utf8_lower(part["half"])
    hours = pc.if_else(pc.equal(hours, ""), "0", hours)
    if is_any(pc.not_equal(half, "")):
        numbers = pc.cast(hours, pa.int64())
        if is_any(pc.and_(pc.not_equal(half, ""), pc.or_(pc.greater(numbers, 12), pc.equal(numbers, 0)))):
            raise pa.ArrowInvalid("no hour of twelve")
        twelve = pc.subtract(numbers, pc.multiply(pc.divide(numbers, 12), 12))
        twelve = pc.if_else(pc.equal(half, "pm"), pc.add(twelve, 12), twelve)
        hours = pc.cast(pc.if_else(pc.equal(half, ""), numbers, twelve), pa.string())
    return pc.utf8_lpad(hours, 2, "0")


def _or_zero(column: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(column, ""), "00", column)
