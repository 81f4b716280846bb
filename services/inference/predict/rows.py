"""Rows of named values to arrays by a model's signature: pure; a refusal names row, column, expected and got."""

import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.v1 import prediction_pb2 as pb
from servicekit.errors import FailedPrecondition
from services.inference.predict.moments import microseconds
from services.inference.predict.problems import Problems
from services.inference.serving.model import NUMPY_TYPES, Array, InputSpec, LoadedModel

# Doubles hold every whole number up to here exactly.
_EXACT = 2.0**53
# More digits than a row's integer has are a text like any other.
_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,40}\s*")
# Shapes of one value a row.
_COLUMN_SHAPES = ((-1,), (-1, 1))


@dataclass(frozen=True)
class _Reader:
    """How values become items of one input.

    Args:
        expected: for people.
        takes: by the kind of a value, what makes it an item; raises ValueError for one that is none.
        missing: stands for a missing value; None where nothing does.
        filler: stands for a wrong one until the request is refused.
    """

    expected: str
    takes: Mapping[str, Callable[[Any], Any]]
    missing: Any
    filler: Any


def rows_to_arrays(rows: Sequence[pb.Row], model: LoadedModel) -> dict[str, Array]:
    """Return a model's inputs by name, each (rows, 1) or (rows,) as the graph has it; series (rows, steps).

    Args:
        rows: at least one; what the model does not ask for is ignored.
        model: whose signature counts.

    Raises:
        InvalidArgument: a row lacks a column, or has a value that the column does not take.
        FailedPrecondition: the model is none of columns.
    """
    check_takes_columns(model)
    problems = Problems(model.deployment, lambda row, column: f'rows[{row}].values["{column}"]')
    arrays: dict[str, Array] = {}
    lengths: dict[str, list[int]] = {}
    for spec in model.inputs.values():
        items = _items(rows, spec, problems)
        if spec.is_series:
            arrays[spec.name] = as_series(items, spec)
            lengths[spec.name] = [len(item) for item in items]
        else:
            arrays[spec.name] = as_column(items, spec)
        problems.look(arrays[spec.name], spec)
    problems.refuse()
    refuse_other_lengths(lengths, problems)
    return arrays


def check_takes_columns(model: LoadedModel) -> None:
    """Check that a model takes one value, or one series, a row in every input.

    Raises:
        FailedPrecondition: it does not: rows say too little of its tensors.
    """
    for spec in model.inputs.values():
        if (spec.shape not in _COLUMN_SHAPES and not spec.is_series) or spec.datatype == "BF16":
            raise FailedPrecondition(
                f"model {model.deployment!r} takes {spec.name!r} of shape {list(spec.shape)}, not one value a row: "
                "send tensors by the Open Inference Protocol (ModelInfer)",
                reason="NOT_COLUMNS",
            )


def as_column(items: "list[Any] | Array", spec: InputSpec) -> Array:
    """Return items as an input's array; what is too large for its floats becomes an infinity, to be refused."""
    shape = (len(items), *spec.shape[1:])
    if spec.datatype == "BYTES":
        texts = np.empty(len(items), dtype=object)
        texts[:] = items
        return texts.reshape(shape)
    with np.errstate(over="ignore"):
        return np.array(items, dtype=NUMPY_TYPES[spec.datatype]).reshape(shape)


_KINDS = {
    "text": "a text",
    "number": "a number",
    "integer": "an integer",
    "boolean": "a truth value",
    "missing": "a missing value, where training had none",
}


def as_series(items: Sequence[Array], spec: InputSpec) -> Array:
    """Return (rows, steps) of series, shorter ones with NaN at their end."""
    found = np.full((len(items), max([1, *map(len, items)])), np.nan, dtype=NUMPY_TYPES[spec.datatype])
    with np.errstate(over="ignore"):
        for row, steps in enumerate(items):
            found[row, : len(steps)] = steps
    return found


def refuse_other_lengths(lengths: Mapping[str, Sequence[int]], problems: Problems) -> None:
    """Check that the series of each row have as many steps: they are the channels of one.

    Raises:
        InvalidArgument: those of a row have not.
    """
    for name, sizes in lengths.items():
        for row, (expected, got) in enumerate(zip(next(iter(lengths.values())), sizes, strict=True)):
            if got != expected:
                problems.add(row, name, f"{expected} steps, as the row's other series have", f"{got}")
    problems.refuse()


def _items(rows: Sequence[pb.Row], spec: InputSpec, problems: Problems) -> list[Any]:
    reader = _reader(spec)
    items: list[Any] = []
    for index, row in enumerate(rows):
        value = row.values.get(spec.name)
        kind = value.WhichOneof("kind") if value is not None else None
        try:
            items.append(_item(value, kind, reader))
        except ValueError:
            problems.add(index, spec.name, reader.expected, _told(value, kind))
            items.append(reader.filler)
    return items


def _item(value: pb.Value | None, kind: str | None, reader: _Reader) -> Any:
    if kind == "missing":
        if reader.missing is None:
            raise ValueError(kind)
        return reader.missing
    if kind is None or kind not in reader.takes:
        raise ValueError(kind)
    return reader.takes[kind](getattr(value, kind))


def _told(value: pb.Value | None, kind: str | None) -> str:
    if value is None:
        return "no such column"
    if kind is None:
        return "a value that says nothing"
    if kind == "series":
        return f"a series of {len(value.series.values)} values"
    # Not the value itself: it is a customer's, and messages are logged.
    return _KINDS[kind]


def _reader(spec: InputSpec) -> _Reader:
    if spec.is_series:
        return _Reader("a series of one step at least", {"series": _steps}, None, np.zeros(1))
    datatype = spec.datatype
    or_missing = ", or missing" if spec.nullable else ""
    if datatype == "BYTES":
        # The empty text stands for a missing value on the wire.
        filler = next((text for text in spec.known or () if text), "a")
        takes: dict[str, Callable[[Any], Any]] = {"text": str, "integer": _whole_as_text(spec.categories or ())}
        return _Reader(f"a text{or_missing}", takes, "" if spec.nullable else None, filler)
    if datatype == "BOOL":
        return _Reader("a truth value", {"boolean": bool}, None, False)
    if spec.is_temporal:
        return _moments(spec, or_missing)
    if datatype.startswith("FP"):
        missing = math.nan if spec.nullable else None
        if spec.is_boolean:
            return _Reader(f"a truth value{or_missing}", {"boolean": float}, missing, 0.0)
        return _Reader(f"a number{or_missing}", {"number": float, "integer": float}, missing, 0.0)
    limits = np.iinfo(NUMPY_TYPES[datatype])
    least, most = int(limits.min), int(limits.max)
    whole = _whole_within(least, most)
    bounds = "" if datatype == "INT64" else f" from {least} to {most}"
    return _Reader(f"a whole number{bounds}", {"integer": whole, "number": whole}, None, 0)


def _whole_as_text(categories: Collection[str]) -> Callable[[int], str]:
    """Return what makes a whole number its digits, unless training wrote it otherwise: 007, +7.

    The SDK does the same with whole numbers of a DataFrame.
    """

    @functools.cache
    def otherwise() -> frozenset[int]:
        return frozenset(int(text) for text in categories if _WHOLE.fullmatch(text) and text != str(int(text)))

    def whole(value: int) -> str:
        if value in otherwise():
            raise ValueError(value)
        return str(value)

    return whole


def _moments(spec: InputSpec, or_missing: str) -> _Reader:
    kind: Callable[[Any], Any] = float if spec.datatype.startswith("FP") else int
    takes: dict[str, Callable[[Any], Any]] = {"text": lambda text: kind(microseconds(text)), "integer": kind}
    missing = math.nan if spec.nullable else None
    expected = f"a date or time as a text in ISO 8601, or as microseconds since 1970-01-01T00:00:00Z{or_missing}"
    return _Reader(expected, takes, missing, kind(0))


def _steps(value: pb.Series) -> Array:
    if not value.values:
        raise ValueError(value)
    return np.array(value.values, dtype=np.float64)


def _whole_within(least: int, most: int) -> Callable[[float], int]:
    def whole(value: float) -> int:
        if isinstance(value, float) and not (value.is_integer() and abs(value) <= _EXACT):
            raise ValueError(value)
        if not least <= value <= most:
            raise ValueError(value)
        return int(value)

    return whole
