"""Calendar features of dates and times: in numpy for training, and as nodes of the ONNX graph for serving.

A date or time is microseconds since 1970-01-01T00:00:00Z. Both sides use the same integer operations, and tables for
sines, so that they agree to the bit. Source of the date arithmetic: Hinnant, chrono-compatible low-level date
algorithms (civil_from_days).
"""

from typing import Any, Protocol, TypeVar

import numpy as np
from onnx import TensorProto

from services.training.domain.families.frame import Array

_DAY = 86_400_000_000
# 0001-01-01T00:00:00 to the end of 9999: outside there is no calendar in ISO 8601.
EARLIEST, LATEST = -62_135_596_800_000_000, 253_402_300_799_999_999
# From 0000-03-01 on: shifted so, every number is positive, and integer division rounds down everywhere.
_SHIFT = 719_468 * _DAY
_MINUTES, _YEAR_DAYS = 1_440, 366
FEATURES = (
    "elapsed_days",
    "year",
    "month",
    "day",
    "weekday",
    "hour",
    "is_weekend",
    "year_sine",
    "year_cosine",
    "week_sine",
    "week_cosine",
    "day_sine",
    "day_cosine",
)


_T = TypeVar("_T")


class GraphBuilder(Protocol):
    """An ONNX graph that nodes can be added to."""

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        ...

    def constant(self, value: Array) -> str:
        """Add a constant; return its name."""
        ...


class _Numbers(Protocol[_T]):
    """Arithmetic on whole numbers, of numpy's arrays or of names of graph values."""

    def add(self, value: _T, other: _T | int) -> _T: ...
    def multiply(self, value: _T, by: int) -> _T: ...
    def divide(self, value: _T, by: int) -> _T: ...
    def double(self, value: _T, divided_by: float = 1.0) -> _T: ...
    def look_up(self, table: Array, places: _T) -> _T: ...


def calendar_features(moments: Array, missing: Array, origins: Array) -> Array:
    """Return (rows, columns * features): first the elapsed days of all columns, then their years, and so on.

    Args:
        moments: (rows, columns) int64 microseconds since 1970, anything where missing.
        missing: (rows, columns) which are missing: their features are NaN.
        origins: (columns,) int64, from which elapsed days are counted.
    """
    clipped = np.clip(moments, EARLIEST, LATEST)
    found = [np.where(missing, np.nan, feature) for feature in _features(clipped, -origins.reshape(1, -1), _InNumpy())]
    return np.concatenate(found, axis=1) if found else np.empty((len(moments), 0))


def add_calendar_features(graph: GraphBuilder, whole: list[str], fractional: list[str], origins: Array) -> str:
    """Add the nodes that give the same; return their name.

    Args:
        graph: the graph.
        whole: the inputs that are int64, (rows, 1) each.
        fractional: the inputs that are doubles, NaN where missing; behind the others.
        origins: (columns,) int64.
    """
    moments, missing = [], []
    if whole:
        moments.append(_joined(graph, whole))
        missing.append(graph.add("IsNaN", [graph.add("Cast", [moments[0]], to=TensorProto.DOUBLE)]))
    if fractional:
        values = _joined(graph, fractional)
        missing.append(graph.add("IsNaN", [values]))
        known = graph.add("Where", [missing[-1], graph.constant(np.array([[0.0]])), values])
        ends = [graph.constant(np.array(float(end))) for end in (EARLIEST, LATEST)]
        moments.append(graph.add("Cast", [graph.add("Clip", [known, *ends])], to=TensorProto.INT64))
    ends = [graph.constant(np.array(end, dtype=np.int64)) for end in (EARLIEST, LATEST)]
    clipped = graph.add("Clip", [_joined(graph, moments), *ends])
    start = graph.constant(-origins.reshape(1, -1))
    columns = graph.add("Concat", list(_features(clipped, start, _InGraph(graph))), axis=1)
    unknown = _joined(graph, missing)
    masks = graph.add("Tile", [unknown, graph.constant(np.array([1, len(FEATURES)], dtype=np.int64))])
    return graph.add("Where", [masks, graph.constant(np.array([[np.nan]])), columns])


def _features(moments: _T, start: _T, of: _Numbers[_T]) -> list[_T]:
    """Return the features in their order, doubles, by one kind of arithmetic."""
    shifted = of.add(moments, _SHIFT)
    days = of.divide(shifted, _DAY)
    time = _rest(shifted, days, _DAY, of)
    year, month, day, march_day = _civil(days, of)
    monday = of.add(days, 2)
    weekday = _rest(monday, of.divide(monday, 7), 7, of)
    minute = of.divide(time, 60_000_000)
    return [
        of.double(of.add(moments, start), float(_DAY)),
        of.double(year),
        of.double(month),
        of.double(day),
        of.double(weekday),
        of.double(time, 3_600_000_000.0),
        of.look_up(np.repeat([0.0, 1.0], [5, 2]), weekday),
        *_cycle(march_day, _YEAR_DAYS, 365.25, of),
        *_cycle(weekday, 7, 7.0, of),
        *_cycle(minute, _MINUTES, float(_MINUTES), of),
    ]


def _civil(days: _T, of: _Numbers[_T]) -> tuple[_T, _T, _T, _T]:
    """Return year, month, day, and the day of the year that begins in March, from 0; of days since 0000-03-01."""
    era = of.divide(days, 146_097)
    in_era = _rest(days, era, 146_097, of)
    leaps = of.add(of.divide(in_era, 36_524), of.multiply(of.divide(in_era, 1_460), -1))
    leaps = of.add(leaps, of.multiply(of.divide(in_era, 146_096), -1))
    years = of.divide(of.add(in_era, leaps), 365)
    before = of.add(of.multiply(years, 365), of.divide(years, 4))
    before = of.add(before, of.multiply(of.divide(years, 100), -1))
    march_day = of.add(in_era, of.multiply(before, -1))
    march_month = of.divide(of.add(of.multiply(march_day, 5), 2), 153)
    passed = of.divide(of.add(of.multiply(march_month, 153), 2), 5)
    day = of.add(of.add(march_day, of.multiply(passed, -1)), 1)
    month = of.add(march_month, 2)
    # January and February are the last months of a year that begins in March.
    next_year = of.divide(month, 12)
    year = of.add(of.add(years, of.multiply(era, 400)), next_year)
    return year, of.add(_rest(month, next_year, 12, of), 1), day, march_day


def _rest(value: _T, quotient: _T, by: int, of: _Numbers[_T]) -> _T:
    return of.add(value, of.multiply(quotient, -by))


def _cycle(places: _T, count: int, period: float, of: _Numbers[_T]) -> list[_T]:
    angles = 2.0 * np.pi * np.arange(count) / period
    return [of.look_up(np.sin(angles), places), of.look_up(np.cos(angles), places)]


class _InNumpy:
    """Arithmetic on int64 arrays."""

    def add(self, value: Array, other: Array | int) -> Array:
        return np.asarray(value + other)

    def multiply(self, value: Array, by: int) -> Array:
        return np.asarray(value * by)

    def divide(self, value: Array, by: int) -> Array:
        return np.asarray(value // by)

    def double(self, value: Array, divided_by: float = 1.0) -> Array:
        return np.asarray(value.astype(np.float64) / divided_by)

    def look_up(self, table: Array, places: Array) -> Array:
        return np.asarray(table[places])


class _InGraph:
    """Arithmetic by nodes of a graph; repeated constants are added once."""

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph
        self._constants: dict[str, str] = {}

    def add(self, value: str, other: str | int) -> str:
        return self._graph.add("Add", [value, self._constant(other) if isinstance(other, int) else other])

    def multiply(self, value: str, by: int) -> str:
        return self._graph.add("Mul", [value, self._constant(by)])

    def divide(self, value: str, by: int) -> str:
        return self._graph.add("Div", [value, self._constant(by)])

    def double(self, value: str, divided_by: float = 1.0) -> str:
        number = self._graph.add("Cast", [value], to=TensorProto.DOUBLE)
        return number if divided_by == 1.0 else self._graph.add("Div", [number, self._constant(divided_by)])

    def look_up(self, table: Array, places: str) -> str:
        return self._graph.add("Gather", [self._graph.constant(table), places])

    def _constant(self, value: int | float) -> str:
        # 7 and 7.0 are equal, and of two types.
        if repr(value) not in self._constants:
            self._constants[repr(value)] = self._graph.constant(np.array([[value]]))
        return self._constants[repr(value)]


def _joined(graph: GraphBuilder, names: list[str]) -> str:
    return graph.add("Concat", names, axis=1) if len(names) > 1 else names[0]
