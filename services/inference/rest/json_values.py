"""The values of a tensor in JSON: what clients and their JSON libraries write, to what a datatype holds. Pure."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from servicekit.errors import InvalidArgument
from services.inference.serving.model import NUMPY_TYPES

_DEEPEST = 32
# Whole numbers beyond may have been another number before they became a double.
_EXACT = 2.0**53
_FLOATS = frozenset(("BF16", "FP16", "FP32", "FP64"))
_NOT_FINITE = frozenset(("NaN", "Infinity", "-Infinity"))


def tensor_values(name: str, datatype: str, item: Mapping[str, Any]) -> list[Any]:
    """Return a tensor's values in row-major order; nested lists and flat ones mean the same, a lone value a list of it.

    Args:
        name: of the tensor.
        datatype: one of the protocol's.
        item: the tensor's object, with `shape` and `data`.

    Returns:
        Bytes for BYTES, bools for BOOL, ints for integers, numbers for floats.

    Raises:
        InvalidArgument: a value is none of the datatype.
    """
    data = item.get("data")
    if data is None and 0 in (item.get("shape") or ()):
        # Some clients send nothing for a tensor without elements.
        return []
    data = _flat(name, data)
    if datatype == "BYTES":
        return _bytes(name, data)
    kinds = set(map(type, data))
    found: list[Any] | None
    if datatype == "BOOL":
        if kinds <= {bool}:
            return data
        # Some libraries write truth values as numbers.
        found = (
            [bool(value) for value in data] if kinds <= {bool, int, float} and all(v in (0, 1) for v in data) else None
        )
    elif datatype in _FLOATS:
        found = _floats(name, datatype, data, kinds)
    elif kinds <= {int}:
        return data
    else:
        # JavaScript and pandas write 1 as 1.0, too.
        is_whole = kinds <= {int, float} and all(type(value) is int or is_whole_number(value) for value in data)
        found = [int(value) for value in data] if is_whole else None
    if found is None:
        raise refused(name, f"data of {datatype}", _odd(kinds))
    return found


def is_whole_number(value: Any) -> bool:
    """Return whether a value is a whole number that was written as 1.0, and that is exact."""
    return type(value) is float and value.is_integer() and abs(value) <= _EXACT


def to_json(array: Any) -> list[Any]:
    """Return an array of numbers as JSON has it: NaN and the infinities as texts."""
    values: list[Any] = array.tolist()
    # "V" is bfloat16's.
    if array.dtype.kind in "fV" and not np.isfinite(array).all():
        return [value if abs(value) < np.inf else _text_of(value) for value in values]
    return values


def refused(tensor: str, expected: str, got: str) -> InvalidArgument:
    """Return the refusal of a tensor."""
    return InvalidArgument(
        f"tensor {tensor!r}: expected {expected}, got {got}", reason="BAD_TENSOR", metadata={"tensor": tensor[:64]}
    )


def _text_of(value: float) -> str:
    return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"


def _flat(name: str, data: Any) -> list[Any]:
    if data is None or isinstance(data, dict):
        raise refused(name, "data, a list, or binary_data_size", "null" if data is None else "an object")
    if not isinstance(data, list):
        return [data]
    for _ in range(_DEEPEST):
        if not any(type(value) is list for value in data):
            found: list[Any] = data
            return found
        if not all(type(value) is list for value in data):
            raise refused(name, "data nested evenly", "lists mixed with values")
        data = [value for part in data for value in part]
    raise refused(name, f"data nested at most {_DEEPEST} deep", "more")


def _floats(name: str, datatype: str, data: list[Any], kinds: set[type]) -> list[Any] | None:
    if str in kinds and kinds <= {int, float, str} and all(type(v) is not str or v in _NOT_FINITE for v in data):
        data = [float(value) if type(value) is str else value for value in data]
    elif not kinds <= {int, float}:
        return None
    if datatype != "FP64":
        try:
            wide = np.array(data, dtype=np.float64)
        except OverflowError:
            raise refused(name, f"data that fits {datatype}", "a value that does not") from None
        with np.errstate(over="ignore"):
            narrow = wide.astype(NUMPY_TYPES[datatype])
        # An infinity that was sent is one; a number that would become one is a mistake.
        if (np.isinf(narrow) & np.isfinite(wide)).any():
            raise refused(name, f"data that fits {datatype}", "a value that does not")
    return data


def _bytes(name: str, data: list[Any]) -> list[bytes]:
    kinds = set(map(type, data))
    if not kinds <= {str}:
        raise refused(name, "data of BYTES", _odd(kinds))
    try:
        return [value.encode() for value in data]
    except UnicodeEncodeError:
        raise refused(name, "UTF-8 text", "half a surrogate pair") from None


def _odd(kinds: set[type]) -> str:
    if type(None) in kinds:
        return 'null, which is no value (a missing number is "NaN")'
    return "a value of another kind"
