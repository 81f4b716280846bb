"""Whether two versions' answers to the same inputs agree: pure."""

from collections.abc import Mapping

import numpy as np

from servicekit.brain_floats import BRAIN_FLOAT
from services.inference.serving.model import Array, OutputSpec

_DISCRETE = "OUSbiu"
_NUMERIC = "fbiu"
# The output of a model whose answers are vectors: what is kept of one version is of no use beside another's.
_EMBEDDING = "embedding"
# Differences below this never count: 32-bit arithmetic leaves as much where terms cancel.
_FLOOR = 1e-7
# Rounding errors of a graph, in units of the last place of an output's largest value.
_ROUNDING = 8
# How far the sum of probabilities may lie from 1.
_SUM_SLACK = 1e-2


def agreeing_rows(
    outputs: Mapping[str, OutputSpec],
    expected: Mapping[str, Array],
    found: Mapping[str, Array],
    tolerance: float,
    rows: int | None = None,
) -> tuple[int, int] | None:
    """Return how many rows were compared, and how many of them agree; None where nothing can be compared.

    Each output is compared along its own axis of rows. An output without such an axis is compared as a whole, and
    counts for every row. Labels (texts, whole numbers, booleans) must be equal, and decide for their
    probabilities; probabilities of named classes must have the same most probable class; other numbers must be close,
    those of an embedding taken together.

    Two numbers are close where they differ by at most `tolerance` times the larger one, or by no more than rounding:
    1e-7, or 8 units in the last place (of 32 bits, or of 16) of the output's largest value. NaN equals NaN, and
    infinities equal themselves.

    Args:
        outputs: by name, of the version whose answers are expected.
        expected: arrays by name.
        found: as expected; names that only one of the two has are left out.
        tolerance: how far apart two numbers, or vectors, may be, relative to the larger one.
        rows: of the request; None to take the largest first dimension of the outputs.
    """
    expected = {name: _plain(array) for name, array in expected.items()}
    found = {name: _plain(array) for name, array in found.items()}
    names = [name for name in expected if name in found and _are_comparable(expected[name], found[name])]
    if not names:
        return None
    if rows is None:
        rows = max((expected[name].shape[0] if expected[name].shape else 1 for name in names), default=1)
    specs = {name: outputs.get(name) or OutputSpec(name, "", ()) for name in names}
    agree = np.ones(rows, dtype=bool)
    for name in _deciding(names, specs, expected, rows):
        agree &= _agree(specs[name], expected[name], found[name], tolerance, rows)
    return rows, int(agree.sum())


def _plain(array: Array) -> Array:
    """Return bfloat16 as a type that NumPy compares."""
    return array.astype(np.float32) if isinstance(array, np.ndarray) and array.dtype == BRAIN_FLOAT else array


def _are_comparable(one: object, other: object) -> bool:
    """Return whether both are tensors of a kind: texts, or numbers."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    return (one.dtype.kind in _NUMERIC) == (other.dtype.kind in _NUMERIC)


def _deciding(names: list[str], specs: Mapping[str, OutputSpec], expected: Mapping[str, Array], rows: int) -> list[str]:
    """Return the outputs that decide: all but the probabilities of a label output."""
    has_label = any(
        array.dtype.kind in _DISCRETE and array.size == rows and array.shape[:1] == (rows,)
        for array in (expected[name] for name in names)
    )
    if not has_label:
        return names
    return [name for name in names if not (specs[name].labels or _are_probabilities(expected[name], rows))] or names


def _are_probabilities(array: Array, rows: int) -> bool:
    """Return whether each row holds probabilities of several classes."""
    if array.dtype.kind != "f" or array.ndim != 2 or array.shape[0] != rows or array.shape[1] < 2:
        return False
    values = array.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        is_share = (values >= -_FLOOR) & (values <= 1.0 + _SUM_SLACK)
        return bool((is_share.all(axis=1) & (np.abs(values.sum(axis=1) - 1.0) <= _SUM_SLACK)).all())


def _agree(spec: OutputSpec, one: Array, other: Array, tolerance: float, rows: int) -> Array:
    """Return for each row whether an output's answers agree."""
    axis = _row_axis(spec, one.shape, rows)
    if axis is not None and other.shape[axis : axis + 1] != (rows,):
        axis = None
    if _essential(one.shape, axis) != _essential(other.shape, axis):
        return np.zeros(rows, dtype=bool)
    same = _same_rows(spec, _flat(one, axis), _flat(other, axis), tolerance)
    return same if axis is not None else np.full(rows, bool(same.all()))


def _row_axis(spec: OutputSpec, shape: tuple[int, ...], rows: int) -> int | None:
    """Return the axis of an output that holds the request's rows; None where there is none, or that is unknown."""
    if shape and shape[0] == rows:
        return 0
    if len(spec.shape) != len(shape):
        return None
    variable = [axis for axis, size in enumerate(shape) if size == rows and spec.shape[axis] == -1]
    return variable[0] if len(variable) == 1 else None


def _essential(shape: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """Return a shape without dimensions of 1: (rows,) and (rows, 1) hold the same."""
    return tuple(size for place, size in enumerate(shape) if size != 1 or place == axis)


def _flat(array: Array, axis: int | None) -> Array:
    """Return an array as (rows, values): one row where it has no axis of rows."""
    if axis is None:
        return array.reshape(1, array.size)
    moved = np.moveaxis(array, axis, 0)
    return moved.reshape(moved.shape[0], array.size // moved.shape[0] if moved.shape[0] else 0)


def _same_rows(spec: OutputSpec, one: Array, other: Array, tolerance: float) -> Array:
    """Return for each row of (rows, values) whether it agrees."""
    if one.dtype.kind in _DISCRETE and other.dtype.kind in _DISCRETE:
        return _all(np.asarray(one == other, dtype=bool))
    if spec.labels and one.shape[1]:
        # Classes that tie to within rounding may change places.
        same_class = (one.argmax(axis=1) == other.argmax(axis=1))[:, None]
        return _all(same_class | _close(one, other, 0.0))
    if spec.name == _EMBEDDING:
        return _all(_close_vectors(one, other, tolerance)[:, None] | _close(one, other, tolerance))
    return _all(_close(one, other, tolerance))


def _all(same: Array) -> Array:
    rows: Array = np.all(same, axis=1)
    return rows


def _close(one: Array, other: Array, tolerance: float) -> Array:
    floor = _floor(one, other)
    one, other = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        bound = np.maximum(tolerance * np.maximum(np.abs(one), np.abs(other)), floor)
        near: Array = np.isfinite(one) & np.isfinite(other) & (np.abs(one - other) <= bound)
    same: Array = near | (one == other) | (np.isnan(one) & np.isnan(other))
    return same


def _close_vectors(one: Array, other: Array, tolerance: float) -> Array:
    floor = _floor(one, other)
    one, other = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = [np.linalg.norm(array, axis=1) for array in (one - other, one, other)]
        bound = np.maximum(tolerance * np.maximum(lengths[1], lengths[2]), floor)
        near: Array = np.isfinite(lengths[1]) & np.isfinite(lengths[2]) & (lengths[0] <= bound)
    return near


def _floor(one: Array, other: Array) -> float:
    """Return the difference that rounding alone may make."""
    kinds = [array.dtype for array in (one, other) if array.dtype.kind == "f"]
    if not kinds:
        return 0.0
    # The coarsest one, and 32 bits at most: graphs with outputs of 64 bits often compute in fewer.
    step = max(float(np.finfo(kind).eps) for kind in (*kinds, np.dtype(np.float32)))
    finite = one[np.isfinite(one)]
    scale = float(np.abs(finite.astype(np.float64)).max()) if finite.size else 0.0
    return max(_FLOOR, _ROUNDING * step * scale)
