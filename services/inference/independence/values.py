"""What the analysis knows of a tensor: its dimensions, which axis the rows lie along, and small known contents."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# The symbol of the number of rows in a run.
ROWS = "\0rows"
_fresh = count()


class Mixed(Exception):
    """A node may mix rows, or it cannot be shown that it does not; the message says how."""


@dataclass(frozen=True)
class Dim:
    """A dimension, or a whole number in a shape: a product of a number and symbols.

    Args:
        factor: the number.
        symbols: sorted; ROWS is the number of rows.
    """

    factor: int
    symbols: tuple[str, ...] = ()

    @property
    def has_rows(self) -> bool:
        """Whether it depends on the number of rows."""
        return ROWS in self.symbols

    @property
    def is_one(self) -> bool:
        """Whether it is 1 in every run."""
        return self.factor == 1 and not self.symbols

    @property
    def number(self) -> int | None:
        """The number that it is in every run; None where it varies."""
        return None if self.symbols else self.factor

    def times(self, other: "Dim") -> "Dim":
        """Return the product."""
        return Dim(self.factor * other.factor, tuple(sorted(self.symbols + other.symbols)))

    def over(self, other: "Dim") -> "Dim | None":
        """Return the quotient; None where it is not a whole product in every run."""
        if not other.factor or self.factor % other.factor:
            return None
        symbols = list(self.symbols)
        for symbol in other.symbols:
            if symbol not in symbols:
                return None
            symbols.remove(symbol)
        return Dim(self.factor // other.factor, tuple(symbols))


ONE = Dim(1)
BATCH = Dim(1, (ROWS,))


def fresh() -> Dim:
    """Return a dimension of which only is known that it does not depend on rows."""
    return Dim(1, (f"\0{next(_fresh)}",))


def product(dims: Iterable[Dim]) -> Dim:
    """Return the product of some dimensions."""
    found = ONE
    for dim in dims:
        found = found.times(dim)
    return found


@dataclass(frozen=True)
class Places:
    """Whole numbers that name places: those of a row begin at its own place times a stride.

    Args:
        stride: how far the numbers of two neighbouring rows are apart; None where they are the same for all rows.
        bound: the numbers are at least where their row begins, and less than so much behind it; None where unknown.
    """

    stride: Dim | None
    bound: Dim | None


@dataclass(frozen=True)
class Value:
    """A tensor.

    Args:
        dims: its dimensions; None where not even their number is known.
        batch: the axis that the rows lie along: its dimension is a multiple of the number of rows, and each row has a
            block of it to itself. None for a tensor that does not depend on the rows.
        before: how many times the rows are repeated along the batch axis, each time with a block a row: that axis is
            (before, rows, block) in memory.
        elements: the contents of a small whole-number tensor without axes or of one axis; None where unknown.
        array: the contents of a small constant; None where unknown.
        places: the contents of a tensor that names places; None for any other.
        columns: the parts of a tensor that was joined of columns along its last axis; empty for any other.
    """

    dims: tuple[Dim, ...] | None
    batch: int | None = None
    elements: tuple[Dim, ...] | None = None
    array: Array | None = field(default=None, compare=False)
    before: Dim = ONE
    places: Places | None = None
    columns: "tuple[Value, ...]" = ()

    def __post_init__(self) -> None:
        places = [axis for axis, dim in enumerate(self.dims or ()) if dim.has_rows]
        if places != ([] if self.batch is None else [self.batch]):
            raise Mixed("the number of rows appears in a dimension that is not the batch")
        if self.batch is not None and self.axis_dim.symbols.count(ROWS) != 1:
            raise Mixed("a dimension grows with the square of the number of rows")

    @property
    def rank(self) -> int:
        """The number of its axes.

        Raises:
            Mixed: it is not known.
        """
        if self.dims is None:
            raise Mixed("the rank of a tensor is not known")
        return len(self.dims)

    @property
    def axis_dim(self) -> Dim:
        """The dimension of the batch axis."""
        assert self.dims is not None and self.batch is not None
        return self.dims[self.batch]

    @property
    def rows(self) -> tuple[Dim, Dim]:
        """How the rows lie along the batch axis: what must be equal where rows of two tensors meet."""
        return self.axis_dim, self.before

    @property
    def names_rows(self) -> bool:
        """Whether its contents depend on the place of a row in the run."""
        own = self.places is not None and self.places.stride is not None
        return own or any(column.names_rows for column in self.columns)

    @property
    def counts_rows(self) -> bool:
        """Whether its contents depend on the number of rows."""
        return any(element.has_rows for element in self.elements or ())

    def axis(self, axis: int) -> int:
        """Return an axis counted from the front.

        Raises:
            Mixed: there is no such axis.
        """
        found = axis + self.rank if axis < 0 else axis
        if not 0 <= found < self.rank:
            raise Mixed(f"there is no axis {axis}")
        return found

    def ints(self) -> list[int] | None:
        """Return its contents as whole numbers; None where they are not known."""
        if self.array is not None and self.array.dtype.kind in "iu":
            return [int(item) for item in self.array.reshape(-1)]
        if self.elements is None or any(element.symbols for element in self.elements):
            return None
        return [element.factor for element in self.elements]

    def floats(self) -> list[float] | None:
        """Return its contents as numbers; None where they are not known."""
        if self.array is not None and self.array.dtype.kind in "fiu":
            return [float(item) for item in self.array.reshape(-1)]
        return None


def rows_at(dims: Sequence[Dim]) -> int | None:
    """Return the axis whose dimension depends on the number of rows; the first of several."""
    return next((axis for axis, dim in enumerate(dims) if dim.has_rows), None)


def constant(array: Array) -> Value:
    """Return the value of a constant whose contents are known."""
    dims = tuple(Dim(size) for size in array.shape)
    elements = None
    if array.ndim < 2 and array.dtype.kind in "iub":
        elements = tuple(Dim(int(item)) for item in array.reshape(-1))
    return Value(dims, None, elements, array)


def broadcast(values: Sequence[Value]) -> Value:
    """Return what an elementwise operation on some tensors gives, by ONNX's multidirectional broadcasting.

    Raises:
        Mixed: rows of one meet another axis of the other.
    """
    rank = max(value.rank for value in values)
    places = {rank - value.rank + value.batch for value in values if value.batch is not None}
    if len(places) > 1:
        raise Mixed("rows lie along different axes of its inputs")
    batch = places.pop() if places else None
    dims = tuple(_joined([_dim_at(value, axis, rank) for value in values]) for axis in range(rank))
    if batch is None:
        return Value(dims)
    sizes = {_dim_at(value, batch, rank) for value in values} - {ONE}
    befores = {value.before for value in values if value.batch is not None}
    if len(sizes) > 1 or len(befores) > 1:
        raise Mixed("rows meet an axis that is not the batch")
    return Value(dims, batch, before=befores.pop())


def _dim_at(value: Value, axis: int, rank: int) -> Dim:
    assert value.dims is not None
    own = axis - (rank - value.rank)
    return value.dims[own] if own >= 0 else ONE


def _joined(dims: Sequence[Dim]) -> Dim:
    found = {dim for dim in dims if not dim.is_one}
    if len(found) < 2:
        return found.pop() if found else ONE
    # A number wins over a symbol: what runs at all has that many.
    numbers = [dim for dim in found if dim.number is not None]
    return numbers[0] if numbers else next((dim for dim in dims if dim.has_rows), fresh())


def reshaped(value: Value, target: Sequence[Dim]) -> Value:
    """Return a tensor in another shape, in row-major order.

    A tensor is (before, rows, block) in memory, with any axes. It stays so where the dimensions in front of the
    target's batch axis are a part of `before`; the rest of `before` lies along the batch axis then.

    Args:
        value: the tensor.
        target: its new dimensions, all resolved.

    Raises:
        Mixed: it cannot be shown that each row stays by itself.
    """
    if value.batch is None:
        if any(dim.has_rows for dim in target):
            raise Mixed("a tensor without rows is put into the shape of rows")
        return Value(tuple(target))
    assert value.dims is not None
    place = rows_at(target)
    if place is None:
        raise Mixed("the target shape does not keep the rows")
    before = product(value.dims[: value.batch]).times(value.before).over(product(target[:place]))
    if before is None or target[place].over(before) is None:
        raise Mixed("the target shape moves the rows")
    return Value(tuple(target), place, before=before)


def resolved(value: Value, target: Sequence[Dim], *, allows_zero: bool = False) -> tuple[Dim, ...]:
    """Return a Reshape's target without its -1 and its zeros.

    Raises:
        Mixed: the size meant by -1 is not the same for each row.
    """
    dims = value.dims
    found = list(target)
    for axis, dim in enumerate(found):
        if dim == Dim(0) and not allows_zero:
            if dims is None or axis >= len(dims):
                raise Mixed("a dimension of the target shape is not known")
            found[axis] = dims[axis]
    if Dim(-1) not in found:
        return tuple(found)
    place = found.index(Dim(-1))
    others = product(dim for axis, dim in enumerate(found) if axis != place)
    rest = None if dims is None else product(dims).over(others)
    if rest is None:
        if value.batch is not None and not others.has_rows:
            raise Mixed("the target shape may put several rows together")
        rest = fresh()
    found[place] = rest
    return tuple(found)


def is_small(shape: Sequence[int], most: int = 1024) -> bool:
    """Return whether a constant is small enough to look into."""
    return math.prod(shape) <= most
