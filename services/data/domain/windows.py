"""Windows of series: from rows in the order of time to a row a window, whose channels are lists of the last steps.

Rows stream by. Of each series the last rows are held, as many as a window and its horizon take; a window is made when
the row comes that completes it. So the series may stand one after another or mixed, as long as each is in order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES, numbers
from services.data.domain.readers.source import check_names

# Values of all series' last rows together, eight bytes each.
_HELD_VALUES = 16_000_000
# Values of one window, and of what a piece of a batch makes.
_WINDOW_VALUES = 1_000_000
_PIECE_VALUES = 1_000_000
# What the target's next values are named by.
NEXT = "_next"

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WindowPlan:
    """What windows are made of.

    Args:
        series: the column that tells series apart; empty for one series.
        order: the column of times or numbers that grow.
        channels: the columns that become lists.
        length, min_length: most and least steps of a window.
        horizon: steps to predict; 0 for a label.
        stride: steps from one window of a series to the next.
        target: the column to predict; empty for none.
    """

    series: str
    order: str
    channels: tuple[str, ...]
    length: int
    min_length: int
    horizon: int
    stride: int
    target: str

    @property
    def held_rows(self) -> int:
        """Rows of a series that are held between batches."""
        return self.length + self.horizon - 1

    @property
    def values(self) -> tuple[str, ...]:
        """The columns whose numbers are held: the channels, then the target where its next values are wanted."""
        return (*self.channels, self.target) if self.horizon else self.channels

    @property
    def goal(self) -> str:
        """What the column to predict is named after the step; empty for none."""
        return self.target + NEXT if self.horizon else self.target


@dataclass
class _Tail:
    """The last rows of a series.

    Args:
        order: their times, as numbers.
        values: (rows, columns) of the plan's values.
        seen: rows of the series so far.
    """

    order: npt.NDArray[Any]
    values: Floats
    seen: int = 0


@dataclass
class _Found:
    """Windows in what is at hand of all series of a piece, one array a series.

    Args:
        values: (rows, columns), one series behind another.
        order: (rows,) their times.
        starts, sizes: of each window: its first row among these, and its steps.
        rows: of the piece: which one completes each window.
    """

    values: list[Floats] = field(default_factory=list)
    order: list[npt.NDArray[Any]] = field(default_factory=list)
    starts: list[Places] = field(default_factory=list)
    sizes: list[Places] = field(default_factory=list)
    rows: list[Places] = field(default_factory=list)
    held: int = 0

    def add(self, values: Floats, order: npt.NDArray[Any], starts: Places, sizes: Places, rows: Places) -> None:
        self.values.append(values)
        self.order.append(order)
        self.starts.append(starts + self.held)
        self.sizes.append(sizes)
        self.rows.append(rows)
        self.held += len(values)


class Windows:
    """The step.

    Args:
        schema: of the rows before it.
        plan: what is wanted.

    Raises:
        InvalidArgument: a column lacks or has no such values, or the numbers do not go together.
    """

    def __init__(self, schema: pa.Schema, plan: WindowPlan) -> None:
        _check(schema, plan)
        self._plan = plan
        self._before = schema
        fields = [schema.field(plan.series)] if plan.series else []
        fields += [schema.field(plan.order), *(pa.field(name, SERIES) for name in plan.channels)]
        if plan.horizon:
            fields.append(pa.field(plan.goal, SERIES))
        elif plan.target:
            fields.append(schema.field(plan.target))
        self.schema = pa.schema([pa.field(one.name, one.type) for one in fields])
        check_names(self.schema.names)
        # A row becomes a window: rows are taken a few at a time, so that what they become is bounded.
        self.piece_rows: int | None = max(1, _PIECE_VALUES // (plan.length * len(plan.channels) + plan.horizon))

    @property
    def goal(self) -> str:
        """What the column to predict is named; empty for none."""
        return self._plan.goal

    def prepare(self, rows: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        """Look at all rows before it: here there is nothing to learn."""

    def start(self, part: int) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
        """Return what it does to the batches of a pass."""
        tails: dict[object, _Tail] = {}
        return lambda batch: self._windows(batch, tails)

    def _windows(self, batch: pa.RecordBatch, tails: dict[object, _Tail]) -> pa.RecordBatch:
        plan = self._plan
        order = _complete(batch, plan.order)
        times, values = numbers(order), _matrix(batch, plan.values)
        names, groups = _groups(batch, plan.series)
        found = _Found()
        for name, rows in zip(names, groups, strict=True):
            tail = tails.setdefault(name, _Tail(times[:0], values[:0]))
            _join(tail, times[rows], values[rows], plan)
            self._find(tail, rows, found)
            kept = slice(max(len(tail.values) - plan.held_rows, 0), None)
            # A copy: a view would keep the whole batch.
            tail.order, tail.values = tail.order[kept].copy(), tail.values[kept].copy()
        if len(tails) * plan.held_rows * len(plan.values) > _HELD_VALUES:
            raise InvalidArgument(
                f"{len(tails):,} series or more, of which {plan.held_rows:,} rows each are held, are too many at a "
                "time: make shorter windows, or filter the series into parts",
                reason="TOO_MANY_SERIES",
            )
        return self._assembled(batch, found)

    def _find(self, tail: _Tail, rows: Places, found: _Found) -> None:
        """Add the windows of a series that new rows, the last of its tail, complete."""
        plan = self._plan
        completing = np.arange(tail.seen - len(rows), tail.seen)
        ends = completing - plan.horizon
        wanted = (ends >= plan.min_length - 1) & ((ends - plan.min_length + 1) % plan.stride == 0)
        sizes = np.minimum(ends + 1, plan.length)[wanted]
        first = tail.seen - len(tail.values)
        found.add(tail.values, tail.order, ends[wanted] + 1 - sizes - first, sizes, rows[wanted])

    def _assembled(self, batch: pa.RecordBatch, found: _Found) -> pa.RecordBatch:
        plan = self._plan
        values, times = (
            np.concatenate(found.values or [np.zeros((0, len(plan.values)))]),
            np.concatenate(found.order or [numbers(batch.column(plan.order))]),
        )
        starts, sizes, rows = (np.concatenate(parts or [_NONE]) for parts in (found.starts, found.sizes, found.rows))
        channels = len(plan.channels)
        ends = starts + sizes
        kept = _sums(np.asarray(np.isfinite(values[:, :channels]).any(axis=1)), starts, ends) > 0
        if plan.horizon:
            kept &= _sums(np.isfinite(values[:, -1]), ends, ends + plan.horizon) == plan.horizon
        elif plan.target:
            kept &= batch.column(plan.target).is_valid().to_numpy(zero_copy_only=False)[rows]
        # In the order of the rows that complete them, whatever batches they come in.
        chosen = np.flatnonzero(kept)[np.argsort(rows[kept], kind="stable")]
        starts, sizes, rows, ends = starts[chosen], sizes[chosen], rows[chosen], ends[chosen]
        columns = [batch.column(plan.series).take(pa.array(rows))] if plan.series else []
        columns.append(_as(times[ends - 1], batch.schema.field(plan.order).type))
        columns += [_lists(values[:, place], starts, sizes) for place in range(channels)]
        if plan.horizon:
            columns.append(_lists(values[:, -1], ends, np.full(len(ends), plan.horizon)))
        elif plan.target:
            columns.append(batch.column(plan.target).take(pa.array(rows)))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


_NONE = np.zeros(0, np.int64)


def _join(tail: _Tail, times: npt.NDArray[Any], values: Floats, plan: WindowPlan) -> None:
    """Put new rows behind a series' last ones.

    Raises:
        InvalidArgument: one does not come after the one before it.
    """
    tail.order, tail.values = np.concatenate([tail.order, times]), np.concatenate([tail.values, values])
    # Not the difference, which overflows for unsigned numbers. Only the new rows: the others were looked at.
    first = max(len(tail.order) - len(times), 1)
    wrong = np.flatnonzero(~(tail.order[first:] > tail.order[first - 1 : -1]))
    if len(wrong):
        place = tail.seen - (len(tail.order) - len(times)) + first + int(wrong[0]) + 1
        where = f" of its series (column {plan.series!r})" if plan.series else ""
        raise InvalidArgument(
            f"row {place:,}{where} does not come after the one before it, by {plan.order!r}: sort the rows, and drop "
            "those that stand twice",
            reason="NOT_IN_ORDER",
            metadata={"row": str(place), "column": plan.order},
        )
    tail.seen += len(times)


def _groups(batch: pa.RecordBatch, series: str) -> tuple[list[object], list[Places]]:
    """Return the series that a batch has rows of, and the rows of each."""
    if not batch.num_rows:
        return [], []
    if not series:
        return [None], [np.arange(batch.num_rows)]
    encoded = _complete(batch, series).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    cuts = np.flatnonzero(np.diff(codes[order])) + 1
    return encoded.dictionary.to_pylist(), np.split(order.astype(np.int64), cuts)


def _complete(batch: pa.RecordBatch, name: str) -> pa.Array:
    column = batch.column(name)
    if column.null_count:
        raise InvalidArgument(
            f"column {name!r} has no value in {column.null_count:,} rows: drop them first (drop_missing)",
            reason="MISSING_VALUE",
            metadata={"column": name},
        )
    return column


def _matrix(batch: pa.RecordBatch, names: tuple[str, ...]) -> Floats:
    """Return (rows, columns) numbers, NaN where one is missing."""
    found = np.empty((batch.num_rows, len(names)))
    for place, name in enumerate(names):
        column = batch.column(name)
        column = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
        found[:, place] = pc.cast(column, pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
    return found


def _sums(marks: npt.NDArray[np.bool_], starts: Places, ends: Places) -> Places:
    """Return how many places are marked from each start to its end."""
    counts = np.r_[0, np.cumsum(marks)]
    return np.asarray(counts[ends] - counts[starts], np.int64)


def _lists(column: Floats, starts: Places, sizes: Places) -> pa.Array:
    """Return the lists of a column's values from each start on, as many as its size says."""
    offsets = np.r_[0, np.cumsum(sizes)]
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, sizes)
    values = pa.array(column[places], from_pandas=True)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values, type=SERIES)


def _as(times: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    found = pa.array(times)
    return found.view(kind) if pa.types.is_temporal(kind) else found


def _check(schema: pa.Schema, plan: WindowPlan) -> None:
    if not 1 <= plan.min_length <= plan.length:
        raise InvalidArgument(
            f"min_length must lie between 1 and length ({plan.length}), got {plan.min_length}", reason="BAD_RECIPE"
        )
    if plan.horizon and not plan.target:
        raise InvalidArgument("a horizon needs the target whose next values are predicted", reason="BAD_RECIPE")
    if plan.length * len(plan.channels) > _WINDOW_VALUES:
        raise InvalidArgument(
            f"a window of {plan.length:,} steps of {len(plan.channels):,} channels is larger than {_WINDOW_VALUES:,} "
            "values",
            reason="BAD_RECIPE",
        )
    for name in plan.values:
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise _unsuitable(name, kind, "numbers")
    kind = schema.field(plan.order).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)):
        raise _unsuitable(plan.order, kind, "times or numbers")
    for name in filter(None, (plan.series, plan.target)):
        if schema.field(name).type == SERIES:
            raise _unsuitable(name, SERIES, "single values")


def _unsuitable(name: str, kind: pa.DataType, wanted: str) -> InvalidArgument:
    return InvalidArgument(
        f"column {name!r} holds {kind} values where windows need {wanted}: cast it first", reason="UNSUITABLE_COLUMN"
    )
