"""Conversions of what users pass: names, JSON values and request fields, each refused by the argument's name."""

import difflib
import enum
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from numbers import Integral, Rational, Real
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd

from lepton import errors

_P = ParamSpec("_P")
_M = TypeVar("_M")
# What counts as one value although it can be iterated.
_SINGLE = (str, bytes, bytearray, os.PathLike, Mapping)


def as_list(value: Any, argument: str, single: tuple[type, ...] = _SINGLE) -> list[Any]:
    """Return the items of a list, tuple, array, Index, range, generator or view; one single value gives a list of it.

    Args:
        value: the argument; None is an empty list.
        argument: its name, for the message.
        single: types that count as one item although they can be iterated.

    Raises:
        InvalidArgument: iterating over it failed.
    """
    if value is None:
        return []
    if (
        isinstance(value, single)
        or not isinstance(value, Iterable)
        or (isinstance(value, np.ndarray) and not value.ndim)
    ):
        return [value]
    try:
        return list(value)
    except (TypeError, ValueError) as error:
        raise errors.InvalidArgument(
            f"{argument} cannot be iterated over: give a list",
            reason="BAD_ARGUMENT",
            violations=((argument, "a list"),),
        ) from error


def to_names(value: Any, argument: str = "columns") -> list[str]:
    """Return names as a list of texts; one name is a list of that name, and None is an empty list.

    Args:
        value: a name, or any iterable of names; whole numbers name the columns that a DataFrame without names has.
        argument: the argument's name, for the message.

    Raises:
        InvalidArgument: an item is neither a text nor a whole number.
    """
    if isinstance(value, Mapping):
        value = list(value)
    return [_to_name(item, argument) for item in as_list(value, argument)]


def _to_name(item: object, argument: str) -> str:
    if isinstance(item, np.ndarray) and not item.ndim:
        item = item.item()
    if isinstance(item, enum.Enum) and isinstance(item.value, str):
        return item.value
    if isinstance(item, str):
        return str(item)
    if isinstance(item, Integral) and not isinstance(item, bool):
        return str(int(item))
    raise errors.InvalidArgument(
        f"{argument} takes one name or a list of names, got a {type(item).__name__}",
        reason="BAD_ARGUMENT",
        violations=((argument, "a name or a list of names"),),
    )


def to_name(value: Any, argument: str) -> str:
    """Return one name as a text; None is the empty name.

    Raises:
        InvalidArgument: it is no text, or more than one.
    """
    if value is None:
        return ""
    if isinstance(value, _SINGLE) or not isinstance(value, Iterable):
        return _to_name(value, argument)
    found = to_names(value, argument)
    if len(found) == 1:
        return found[0]
    raise errors.InvalidArgument(f"{argument} takes one name, got {len(found)}", reason="BAD_ARGUMENT")


def type_name(value: Any) -> Any:
    """Return a type of Python or NumPy, or a short name of one, as the name of an Arrow type; others as they are."""
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        value = np.dtype(value).name
    try:
        return _TYPE_NAMES.get(value, value)
    except TypeError:
        return value


_TYPE_NAMES: dict[Any, str] = {str: "string", int: "int64", float: "double", bool: "bool"}
_TYPE_NAMES |= {"str": "string", "int": "int64", "float": "double", "boolean": "bool", "datetime": "timestamp[us]"}


def to_mapping(value: Any, argument: str) -> dict[str, Any]:
    """Return a mapping, or a pandas Series, as a dict by name.

    Raises:
        InvalidArgument: it is none, or a key is no name.
    """
    if not isinstance(value, Mapping | pd.Series):
        raise errors.InvalidArgument(
            f"{argument} takes a dict by name, got a {type(value).__name__}", reason="BAD_ARGUMENT"
        )
    return {_to_name(name, argument): item for name, item in value.items()}


def to_json_value(value: Any, argument: str) -> Any:
    """Return a value as JSON has it: NumPy and pandas scalars, arrays, ranges, Decimals, enums and paths converted.

    Args:
        value: what the user gave.
        argument: the argument's name, for the message.

    Raises:
        InvalidArgument: it has no JSON form: NaN, an infinity, a complex number, a date, an object of another type.
    """
    if isinstance(value, enum.Enum):
        return to_json_value(value.value, argument)
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.ndarray) and not value.ndim:
        return to_json_value(value.item(), argument)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, Real | Decimal):
        return _to_json_number(value, argument)
    if isinstance(value, Mapping):
        return {_to_name(name, argument): to_json_value(item, f"{argument}[{name!r}]") for name, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=lambda item: (str(type(item)), item))
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray):
        return [to_json_value(item, argument) for item in as_list(value, argument)]
    raise _no_json(argument, type(value).__name__)


def _to_json_number(value: Any, argument: str) -> int | float:
    try:
        number = float(value)
    except (OverflowError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise _no_json(argument, "NaN" if math.isnan(number) else "number beyond what a double holds")
    is_exact = isinstance(value, Rational | Decimal)
    # 2**63 stays exact, and so does Decimal(3).
    return int(value) if is_exact and value == int(value) else number


def _no_json(argument: str, found: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"{argument} takes numbers, texts, truth values and lists of them, got a {found}",
        reason="BAD_ARGUMENT",
        violations=((argument, f"a {found} has no JSON form"),),
    )


def build(kind: Callable[_P, _M], /, *args: _P.args, **kwargs: _P.kwargs) -> _M:
    """Return a message of the contract made of a user's values.

    Args:
        kind: the message's class.
        args: none; messages take fields by name.
        kwargs: the fields; NumPy scalars count as numbers.

    Raises:
        InvalidArgument: a field is of the wrong type or beyond its range; the message names it.
    """
    fields = {name: _plain(value) for name, value in kwargs.items()}
    try:
        return kind(*args, **fields)
    except (TypeError, ValueError, OverflowError):
        # protobuf does not say which field it was.
        checked = {name: _checked_field(kind, name, value) for name, value in fields.items()}
        return kind(*args, **checked)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim):
        return value.item()
    if isinstance(value, Decimal) or (isinstance(value, Rational) and not isinstance(value, Integral)):
        return _to_json_number(value, "value")
    return value


def _checked_field(kind: Callable[..., Any], name: str, value: Any) -> Any:
    fields = getattr(kind, "DESCRIPTOR").fields_by_name  # noqa: B009
    if name not in fields:
        raise unknown(name, list(fields), "argument") from None
    if isinstance(value, float) and value.is_integer() and fields[name].cpp_type in _WHOLE:
        value = int(value)
    try:
        kind(**{name: value})
        return value
    except (TypeError, ValueError, OverflowError):
        wanted = _WANTED.get(fields[name].cpp_type, "another value")
        raise errors.InvalidArgument(
            f"{name} takes {wanted}, got {_described(value, fields[name].cpp_type)}",
            reason="BAD_ARGUMENT",
            violations=((name, wanted),),
        ) from None


# By protobuf's FieldDescriptor.CPPTYPE_*.
_WHOLE = range(1, 5)
_TEXT = 9
_WANTED = {
    1: "a whole number between -2**31 and 2**31 - 1",
    2: "a whole number between -2**63 and 2**63 - 1",
    3: "a whole number between 0 and 2**32 - 1",
    4: "a whole number between 0 and 2**64 - 1",
    5: "a number",
    6: "a number",
    7: "true or false",
    9: "a text that UTF-8 can encode",
}


def _described(value: object, wanted: int) -> str:
    if isinstance(value, Integral) and not isinstance(value, bool):
        return "another number"
    if isinstance(value, str):
        return "a text with a lone surrogate" if wanted == _TEXT else "a text"
    return f"a {type(value).__name__}"


def unknown(name: str, known: Collection[str], what: str, reason: str = "UNKNOWN_ARGUMENT") -> errors.InvalidArgument:
    """Return the error for an unknown name, with the nearest known one.

    Args:
        name: what the user gave.
        known: the valid names.
        what: what it names, such as `sampler`.
        reason: the error's.
    """
    near = difflib.get_close_matches(name.lower(), [item.lower() for item in known], n=1)
    original = next((item for item in known if near and item.lower() == near[0]), "")
    hint = f"; did you mean {original}?" if original else ""
    return errors.InvalidArgument(f"unknown {what} {name!r}: expected one of {', '.join(known)}{hint}", reason=reason)


def one_of(value: str, known: Collection[str], what: str) -> str:
    """Return a value that is one of some known ones.

    Raises:
        InvalidArgument: it is not; the message lists them and names the nearest.
    """
    if value not in known:
        raise unknown(str(value), known, what)
    return value
