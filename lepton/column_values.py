"""Columns of numbers and truth values as a model's inputs, by the rules that the services have for rows.

A fraction is no whole number, a text no number, and a number no truth value; nothing is converted by Python's casts.
"""

import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from lepton import errors
from lepton.v1 import common_pb2

NUMPY_TYPES: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    # NumPy has no bfloat16; each of its numbers is one of these.
    "BF16": np.float32,
}
# What fits the contract's integers.
_LEAST, _MOST = -(2**63), 2**63 - 1
# Doubles hold every whole number up to here exactly.
EXACT_INTEGERS = 2.0**53
# Enough wrong values to fix a table by.
_MOST_PROBLEMS = 16
_NAMES = {
    "missing": "a missing value, where training had none",
    "boolean": "a truth value",
    "integer": "a whole number",
    "number": "a number",
    "text": "a text",
}
# Of the right kind, and still none of the input's values.
_UNFIT = {
    "integer": "a whole number out of range",
    "number": "a fraction, or a number beyond what a double holds exactly",
}


def plain_value(value: object) -> tuple[str, Any]:
    """Return a value's kind and the value as plain Python: missing, boolean, integer, number, text or other.

    Args:
        value: of a record or a column; None, NaN, NA and NaT are missing, and durations are seconds. Whole Decimals are
            integers, and integers beyond 64 bits are numbers.
    """
    if value is None or value is pd.NA or value is pd.NaT:
        return "missing", None
    if isinstance(value, bool | np.bool_):
        return "boolean", bool(value)
    if isinstance(value, str):
        return "text", str(value)
    if isinstance(value, np.datetime64 | np.timedelta64) and np.isnat(value):
        return "missing", None
    if isinstance(value, timedelta | np.timedelta64):
        # Training reads durations as seconds.
        return "number", pd.Timedelta(value).total_seconds()
    if not isinstance(value, Real | Decimal):
        return "other", value
    number = _to_float(value)
    if math.isnan(number):
        return "missing", None
    if isinstance(value, Integral) or (isinstance(value, Decimal) and math.isfinite(number) and value == int(value)):
        return ("integer", int(value)) if _LEAST <= int(value) <= _MOST else ("number", number)
    return "number", number


def to_numbers(column: "pd.Series[Any]", spec: common_pb2.TensorSpec, first_row: int = 0) -> "np.ndarray[Any, Any]":
    """Return a column as the values of an input of numbers or truth values, shape (rows, 1); missing ones are NaN.

    Args:
        column: of any dtype.
        spec: the input.
        first_row: the number of the column's first row in the user's data, for messages.

    Raises:
        InvalidArgument: BAD_ROW: the input does not take a value; with a violation for each of the first 16.
    """
    kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else "O"
    wanted = NUMPY_TYPES[spec.datatype]
    with np.errstate(over="ignore"):
        # What is too large for the input's floats becomes an infinity, which the services refuse.
        if (kind == "b" and _is_truth(spec)) or (kind in "iuf" and not _is_truth(spec) and _fits(column, spec)):
            return column.to_numpy().astype(wanted).reshape(-1, 1)
        return np.array(_checked(column, spec, first_row), dtype=wanted).reshape(-1, 1)


def to_steps(value: object, column: str, row: int | None = None) -> "np.ndarray[Any, Any]":
    """Return the steps of a series as 64-bit floats, shape (steps,); missing ones are NaN.

    Args:
        value: a list, tuple or array of numbers.
        column: its name, for messages.
        row: its row's number, for messages; None where the caller names the row.

    Raises:
        InvalidArgument: BAD_ROW: it is no list, or an item is neither a number nor missing.
    """
    where = f"column {column!r}" if row is None else f"row {row}, column {column!r}"
    is_list = isinstance(value, list | tuple | pd.Series) or (isinstance(value, np.ndarray) and value.ndim == 1)
    if not is_list:
        raise errors.InvalidArgument(f"{where}: expected a list of numbers", reason="BAD_ROW")
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        return value.astype(np.float64)
    steps = [plain_value(item) for item in value]  # type: ignore[attr-defined]
    wrong = next((kind for kind, _ in steps if kind not in ("missing", "integer", "number")), None)
    if wrong is not None:
        got = _NAMES.get(wrong, "a value of another type")
        raise errors.InvalidArgument(
            f"{where} holds a list of other than numbers: expected a number or None in each step, got {got}",
            reason="BAD_ROW",
        )
    return np.array([math.nan if kind == "missing" else _to_float(plain) for kind, plain in steps], dtype=np.float64)


def _is_truth(spec: common_pb2.TensorSpec) -> bool:
    return spec.datatype == "BOOL" or spec.kind == common_pb2.COLUMN_KIND_BOOLEAN


def _fits(column: "pd.Series[Any]", spec: common_pb2.TensorSpec) -> bool:
    """Return whether every number of a NumPy column is one of the input's."""
    if spec.datatype.startswith(("FP", "BF")):
        return True
    values = column.to_numpy()
    if values.dtype.kind == "f" and not (np.abs(values) <= EXACT_INTEGERS).all():
        return False
    limits = np.iinfo(NUMPY_TYPES[spec.datatype])  # type: ignore[type-var]
    is_whole = values.dtype.kind != "f" or bool((values == np.floor(values)).all())
    return is_whole and (not len(values) or limits.min <= int(values.min()) <= int(values.max()) <= limits.max)


def _checked(column: "pd.Series[Any]", spec: common_pb2.TensorSpec, first_row: int) -> list[Any]:
    expected, takes = _reader(spec)
    items: list[Any] = []
    problems: list[tuple[int, str]] = []
    for row, value in enumerate(column):
        kind, plain = plain_value(value)
        try:
            items.append(takes[kind](plain))
        except (KeyError, ValueError):
            items.append(0)
            got = (_UNFIT if kind in takes else _NAMES).get(kind) or f"a {type(value).__name__}"
            problems.append((row + first_row, "an infinity" if kind == "number" and math.isinf(plain) else got))
            if len(problems) == _MOST_PROBLEMS:
                break
    if problems:
        raise _bad_rows(spec.name, expected, problems)
    return items


def _reader(spec: common_pb2.TensorSpec) -> tuple[str, dict[str, Callable[[Any], Any]]]:
    """Return what an input takes, for people, and by kind of value what makes it an item."""
    is_float = spec.datatype.startswith(("FP", "BF"))
    # NaN in an input that had none missing is refused by the services, unless the model was made elsewhere.
    missing: dict[str, Callable[[Any], Any]] = {"missing": lambda _: math.nan} if is_float else {}
    if _is_truth(spec):
        return "a truth value", {"boolean": float if is_float else bool, **missing}
    if is_float:
        return "a number", {"number": float, "integer": float, **missing}
    limits = np.iinfo(NUMPY_TYPES[spec.datatype])  # type: ignore[type-var]
    whole = _whole_within(int(limits.min), int(limits.max))
    bounds = "" if spec.datatype == "INT64" else f" from {limits.min} to {limits.max}"
    return f"a whole number{bounds}", {"integer": whole, "number": whole}


def _whole_within(least: int, most: int) -> Callable[[float], int]:
    def whole(value: float) -> int:
        if isinstance(value, float) and not (value.is_integer() and abs(value) <= EXACT_INTEGERS):
            raise ValueError
        if not least <= value <= most:
            raise ValueError
        return int(value)

    return whole


def _bad_rows(column: str, expected: str, problems: list[tuple[int, str]]) -> errors.InvalidArgument:
    row, got = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return errors.InvalidArgument(
        f"row {row}, column {column!r}: expected {expected}, got {got}{more}",
        reason="BAD_ROW",
        metadata={"row": str(row), "column": column},
        violations=tuple(
            (f'rows[{at}].values["{column}"]', f"expected {expected}, got {what}") for at, what in problems
        ),
    )


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except ValueError:
        # A signalling NaN of Decimal.
        return math.nan
