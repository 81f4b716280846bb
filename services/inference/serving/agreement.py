"""Whether two versions' answers to the same inputs agree: pure."""

from collections.abc import Mapping

import numpy as np

from services.inference.serving.model import Array, OutputSpec

_DISCRETE = "OUSbiu"
# The output of a model whose answers are vectors: what is kept of one version is of no use beside another's.
_EMBEDDING = "embedding"


def agreeing_rows(
    outputs: Mapping[str, OutputSpec], expected: Mapping[str, Array], found: Mapping[str, Array], tolerance: float
) -> tuple[int, int]:
    """Return how many rows were compared, and how many of them agree.

    Where there are labels (texts, whole numbers, booleans) these must be equal; else, where there are probabilities of
    named classes, the most probable class; else all numbers must be close, those of an embedding taken together.

    Args:
        outputs: by name, of the version whose answers are expected.
        expected: (rows, ...) by name.
        found: as expected, the same names.
        tolerance: how far apart two numbers, or vectors, may be, relative to the larger one.
    """
    rows = max((_rows(array) for array in expected.values()), default=0)
    if any(expected[name].shape != found[name].shape for name in expected):
        return rows, 0
    labels = [name for name in expected if expected[name].dtype.kind in _DISCRETE]
    classes = [name for name in expected if outputs[name].labels and name not in labels]
    agree = np.ones(rows, dtype=bool)
    for name in labels or classes or list(expected):
        one, other = _by_row(expected[name]), _by_row(found[name])
        if labels:
            same = one == other
        elif classes:
            same = (one.argmax(axis=1) == other.argmax(axis=1)).reshape(-1, 1)
        else:
            same = (_close_vectors if name == _EMBEDDING else _close)(one, other, tolerance)
        agree &= same.all(axis=1)
    return rows, int(agree.sum())


def _close(one: Array, other: Array, tolerance: float) -> Array:
    one, other = one.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):
        near: Array = np.abs(one - other) <= tolerance * np.maximum(np.abs(one), np.abs(other))
    same: Array = near | (one == other) | (np.isnan(one) & np.isnan(other))
    return same


def _close_vectors(one: Array, other: Array, tolerance: float) -> Array:
    one, other = one.astype(np.float64), other.astype(np.float64)
    lengths = [np.linalg.norm(array, axis=1, keepdims=True) for array in (one - other, one, other)]
    near: Array = lengths[0] <= tolerance * np.maximum(lengths[1], lengths[2])
    return near


def _rows(array: Array) -> int:
    return array.shape[0] if array.shape else 1


def _by_row(array: Array) -> Array:
    return array.reshape(_rows(array), -1)
