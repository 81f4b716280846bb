"""Columns of a DataFrame as the types of a model's signature: texts stay as they are, dates become microseconds."""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from lepton import errors
from lepton.v1 import common_pb2

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# More digits than any integer of a frame or a row has are a text like any other.
_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,40}\s*")
_READ_AS_TEXT = "read it as text: lepton.load_data(file, like=...), or pandas.read_csv(file, dtype=str)"


def to_texts(column: "pd.Series[Any]", spec: common_pb2.TensorSpec, first_row: int = 0) -> "np.ndarray[Any, Any]":
    """Return a column as the texts of a model's input, (rows, 1) objects; missing is the empty text.

    A whole number becomes its digits, unless training wrote it otherwise: 007, +7. Fractions, truth values and dates
    have several spellings, and the file's one is unknown: 1.50 or 1.5, True or TRUE.

    Args:
        column: of any dtype.
        spec: the input.
        first_row: the number of the column's first row in the user's data, for messages.

    Raises:
        InvalidArgument: a value is neither text nor whole number; the message names row and column.
    """
    otherwise = _written_otherwise(spec.categories) if column.dtype != "str" else frozenset[int]()
    texts = np.empty(len(column), dtype=object)
    for row, (value, missing) in enumerate(zip(column, column.isna(), strict=True)):
        if missing:
            texts[row] = ""
        elif isinstance(value, str):
            texts[row] = value
        elif isinstance(value, Integral) and not isinstance(value, bool | np.bool_) and int(value) not in otherwise:
            texts[row] = str(int(value))
        else:
            raise errors.InvalidArgument(
                f"column {spec.name!r}, row {first_row + row} holds a {type(value).__name__} where the model was "
                f"trained on texts, and its spelling in the file is lost: {_READ_AS_TEXT}",
                reason="COLUMN_TYPE",
            )
    return texts.reshape(-1, 1)


def _written_otherwise(categories: Iterable[str]) -> frozenset[int]:
    """Return the whole numbers that categories write in another way than by their digits: 7 of 007, +7 or a 7 padded.

    The service of typed predictions has the same rule.
    """
    found = {text: int(text) for text in categories if _WHOLE.fullmatch(text)}
    return frozenset(number for text, number in found.items() if text != str(number))


def to_moments(column: "pd.Series[Any]", spec: common_pb2.TensorSpec, first_row: int = 0) -> "np.ndarray[Any, Any]":
    """Return a column of dates and times as microseconds since 1970-01-01T00:00:00Z, (rows, 1); missing is NaN.

    A date or time without a zone is UTC; texts are ISO 8601.

    Raises:
        InvalidArgument: a value is none, or is missing where training had one in every row.
    """
    is_fractional = spec.datatype.startswith(("FP", "BF"))
    moments = np.zeros(len(column), dtype=np.float64 if is_fractional else np.int64)
    for row, (value, missing) in enumerate(zip(column, column.isna(), strict=True)):
        if missing and is_fractional:
            moments[row] = np.nan
            continue
        try:
            moments[row] = microseconds(value)
        except (TypeError, ValueError, OverflowError) as error:
            found = "no value" if missing else f"a {type(value).__name__} that is none"
            raise errors.InvalidArgument(
                f"column {spec.name!r}, row {first_row + row} holds {found}: expected a date or time, or its text "
                "in ISO 8601",
                reason="COLUMN_TYPE",
            ) from error
    return moments.reshape(-1, 1)


def microseconds(value: object) -> int:
    """Return a date, a time of day or both as microseconds since 1970-01-01T00:00:00Z.

    Raises:
        ValueError: it is none.
    """
    if value is pd.NaT:
        raise ValueError("missing")
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if isinstance(value, pd.Timestamp):
        # Finer units are cut.
        value = value.floor("us").to_pydatetime()
    if isinstance(value, time):
        value = datetime.combine(date(1970, 1, 1), value)
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise ValueError(type(value).__name__)
    return ((value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def is_moment(value: object) -> bool:
    """Return whether a value is a date, a time of day or both, as Python, NumPy and pandas have them."""
    return isinstance(value, date | time | np.datetime64)


def to_iso(value: object) -> str:
    """Return a date or time as ISO 8601, in microseconds."""
    if isinstance(value, time):
        return value.isoformat()
    if isinstance(value, np.datetime64 | pd.Timestamp):
        return str(pd.Timestamp(value).floor("us").to_pydatetime().isoformat())
    assert isinstance(value, date)
    return value.isoformat()


def _parsed(text: str) -> datetime | time:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return time.fromisoformat(text)
