"""What linear models see: scaled numbers, marks of missing ones, and one place a known category."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from servicekit.errors import InvalidArgument
from services.training.domain.families.encoding import Encoded, Encoding
from services.training.domain.families.frame import Array

# A spread below this share of the mean is rounding, not a spread.
_LEAST_SPREAD = 1e-12
# A value that one row alone has tells nothing of other rows, and lets that row be learned by heart.
_LEAST_CATEGORY_ROWS = 2


@dataclass(frozen=True)
class Scaling:
    """How numbers are brought to one scale.

    Args:
        mean, deviation: (numeric columns,) of the training rows; the mean also stands for missing values.
    """

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, numbers: Array) -> Self:
        """Measure the training rows.

        Raises:
            InvalidArgument: their numbers are so large that their squares overflow.
        """
        known = ~np.isnan(numbers)
        counts = np.maximum(known.sum(axis=0), 1)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(known, numbers, 0.0).sum(axis=0) / counts
            spread = np.sqrt((np.where(known, numbers - mean, 0.0) ** 2).sum(axis=0) / counts)
        return cls.measured(mean, spread)

    @classmethod
    def measured(cls, mean: Array, spread: Array) -> Self:
        """Return the scaling by means and standard deviations.

        Raises:
            InvalidArgument: they overflowed.
        """
        if not (np.isfinite(mean).all() and np.isfinite(spread).all()):
            raise InvalidArgument("a column holds numbers beyond 1e150: scale it", reason="NUMBERS_TOO_LARGE")
        return cls(mean, np.where(spread > _LEAST_SPREAD * np.abs(mean), spread, 1.0))


def scaled(numbers: Array, scaling: Scaling) -> tuple[Array, Array]:
    """Return the scaled numbers with 0 where missing, and which are missing."""
    missing = np.isnan(numbers)
    return np.where(missing, 0.0, (numbers - scaling.mean) / scaling.deviation), missing


def category_rows(encoding: Encoding, encoded: Encoded) -> Array:
    """Return (known categories + 1,) how many rows have each."""
    return np.bincount(encoded.codes.reshape(-1), minlength=encoding.unknown + 1)


def design_matrix(encoding: Encoding, encoded: Encoded, scaling: Scaling, common: Array) -> Array:
    """Return (rows, features): scaled numbers, missing marks, one column a known category.

    Args:
        encoding: of the columns.
        encoded: the rows.
        scaling: of the numbers.
        common: (known categories + 1,) which of them count.
    """
    values, missing = scaled(encoded.numbers, scaling)
    hot = np.zeros((len(encoded.codes), encoding.unknown + 1))
    rows = np.arange(len(encoded.codes))
    for place in range(encoded.codes.shape[1]):
        hot[rows, encoded.codes[:, place]] = 1.0
    hot[:, ~common] = 0.0
    return np.concatenate([values, missing.astype(float), hot[:, :-1]], axis=1)


def is_common(rows: Array) -> Array:
    """Return which categories count, by how many rows have each."""
    return np.asarray(rows >= _LEAST_CATEGORY_ROWS)
