"""What a fit must know of all rows before it begins, measured in one pass."""

from typing import Self

import numpy as np

from services.training.domain.families.design import Scaling
from services.training.domain.families.frame import Array


class Moments:
    """Count, mean, spread and range of columns of numbers, added up piece by piece; NaN is missing.

    Source: Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.

    Args:
        columns: how many.
    """

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self.count = np.zeros(columns)
        self.mean = np.zeros(columns)
        self._squares = np.zeros(columns)
        self.low = np.full(columns, np.inf)
        self.high = np.full(columns, -np.inf)

    @classmethod
    def of(cls, numbers: Array) -> Self:
        """Measure (rows, columns)."""
        found = cls(numbers.shape[1])
        found.update(numbers)
        return found

    def update(self, numbers: Array) -> None:
        """Add (rows, columns)."""
        known = ~np.isnan(numbers)
        self.rows += len(numbers)
        count = known.sum(axis=0)
        total = np.maximum(self.count + count, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.where(known, numbers, 0.0).sum(axis=0) / np.maximum(count, 1)
            squares = (np.where(known, numbers - mean, 0.0) ** 2).sum(axis=0)
            step = mean - self.mean
            self._squares += squares + step**2 * self.count * count / total
            self.mean += step * count / total
        self.count += count
        self.low = np.minimum(self.low, np.where(known, numbers, np.inf).min(axis=0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(known, numbers, -np.inf).max(axis=0, initial=-np.inf))

    @property
    def spread(self) -> Array:
        """(columns,) standard deviations."""
        return np.asarray(np.sqrt(self._squares / np.maximum(self.count, 1)))

    def scaling(self) -> Scaling:
        """Return how the columns are brought to one scale.

        Raises:
            InvalidArgument: numbers are so large that their squares overflow.
        """
        return Scaling.measured(self.mean, self.spread)
