"""Reads texts as numbers and truth values. What is no number as a whole raises pa.ArrowInvalid."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

# Beyond it, not every integer is a double.
EXACT_INTEGERS = 2**53
# Every decimal of so many significant digits is a double of its own.
_EXACT_DIGITS = 15
# No double has more when it is printed in full.
_MOST_DIGITS = 770


@dataclass(frozen=True)
class NumberFormat:
    """How a file writes numbers.

    Args:
        decimal: the decimal mark.
        thousands: the mark between groups of three digits; empty for none.
    """

    decimal: str = "."
    thousands: str = ""


def has_leading_zeros(texts: pa.Array) -> bool:
    """Return whether a text is a code with leading zeros, such as 007 or 00501; 0, 0.5 and -0.5 are none."""
    return is_any(pc.match_substring_regex(texts, r"^\s*[+-]?0\d"))


def as_integers(texts: pa.Array, written: NumberFormat) -> pa.Array:
    """Return texts as int64."""
    plain = pc.replace_substring_regex(_plain(texts, written), r"^\+(\d)", r"\1")
    # Arrow also reads 0x1F, and cuts no sign.
    if is_any(pc.match_substring(plain, "x", ignore_case=True)):
        raise pa.ArrowInvalid("hexadecimal")
    return pc.cast(plain, pa.int64())


def as_doubles(texts: pa.Array, written: NumberFormat) -> pa.Array:
    """Return texts as doubles, the nearest ones."""
    plain = _plain(texts, written)
    if written.decimal != ".":
        if is_any(pc.match_substring(plain, ".")):
            raise pa.ArrowInvalid("another decimal mark")
        plain = pc.replace_substring(plain, written.decimal, ".")
    return pc.cast(plain, pa.float64())


def as_booleans(texts: pa.Array) -> pa.Array:
    """Return true and false, in any case, as truth values."""
    if not is_all(pc.match_substring_regex(texts, r"^\s*(true|false)\s*$", ignore_case=True)):
        raise pa.ArrowInvalid("neither true nor false")
    return pc.cast(pc.utf8_lower(pc.utf8_trim_whitespace(texts)), pa.bool_())


def keeps_digits(texts: pa.Array, values: pa.Array) -> bool:
    """Return whether no text has digits that its double lacks: two ids never become one number.

    A text keeps its digits where its double, printed with as many, is the same. Programs that print doubles with 17 or
    20 digits write such texts.
    """
    long = pc.and_(
        pc.greater(pc.utf8_length(texts), _EXACT_DIGITS), pc.not_equal(texts, pc.cast(values, pa.string()))
    ).fill_null(False)
    if not is_any(long):
        return True
    some = zip(texts.filter(long).to_pylist(), values.filter(long).to_pylist(), strict=True)
    return all(_is_same(text, value) for text, value in some)


def _is_same(text: str, value: float) -> bool:
    mantissa = text.strip().lower().lstrip("+-").partition("e")[0]
    digits = "".join(one for one in mantissa if one.isdigit()).lstrip("0")
    if mantissa.isdigit() and "e" not in text.lower() and len(digits) > _EXACT_DIGITS:
        return abs(value) < 2**63 and int(value) == int(text)
    significant = digits.rstrip("0")
    if len(significant) <= _EXACT_DIGITS:
        return True
    if len(significant) > _MOST_DIGITS:
        return False
    printed = f"{value:.{len(significant) - 1}e}".lstrip("-").partition("e")[0].replace(".", "")
    return printed == significant


def _plain(texts: pa.Array, written: NumberFormat) -> pa.Array:
    """Return texts without blanks around them and without marks between groups of digits."""
    plain = pc.utf8_trim_whitespace(texts)
    if not written.thousands:
        return plain
    mark, point = (_escaped(one) for one in (written.thousands, written.decimal))
    whole = rf"^[+-]?(\d+|\d{{1,3}}({mark}\d{{3}})+)({point}\d*)?([eE][+-]?\d+)?$"
    if not is_all(pc.match_substring_regex(plain, whole)):
        raise pa.ArrowInvalid("groups of digits are not of three")
    return pc.replace_substring(plain, written.thousands, "")


def _escaped(mark: str) -> str:
    return rf"\x{{{ord(mark):x}}}"


def is_all(mask: pa.Array) -> bool:
    """Return whether all values of a mask are true; missing ones do not count."""
    return bool(pc.all(mask, min_count=0).as_py())


def is_any(mask: pa.Array) -> bool:
    """Return whether a value of a mask is true."""
    return bool(pc.any(mask, min_count=0).as_py())
