"""Units in which a regression target is learned: squares of 1e300 overflow, and LightGBM's labels are single floats."""

from dataclasses import dataclass

import numpy as np

from services.training.domain.families.frame import Array

# Squares of what lies between, summed over any number of rows, fit a double.
_LEAST, _MOST = 1e-100, 1e100
# LightGBM keeps labels as single floats and gains above 1e-15: outside, differences between labels are lost.
_LEAST_SPREAD, _MOST_SPREAD, _MOST_OFFSET = 1e-4, 1e15, 1e4


@dataclass(frozen=True)
class Unit:
    """The linear map from learned values to the target: offset + spread * value."""

    offset: float = 0.0
    spread: float = 1.0

    def learned(self, truth: Array) -> Array:
        """Return (rows,) target values as they are learned."""
        return truth if self == OWN_UNIT else np.asarray((truth - self.offset) / self.spread)

    def restored(self, values: Array) -> Array:
        """Return (rows,) learned values in the target's unit."""
        return values if self == OWN_UNIT else np.asarray(values * self.spread + self.offset)


OWN_UNIT = Unit()


def target_unit(truth: Array) -> float:
    """Return the power of two to divide a target by before it is squared; 1 for all but extreme numbers."""
    largest = float(np.abs(truth).max(initial=0.0))
    if largest == 0.0 or _LEAST <= largest <= _MOST:
        return 1.0
    return float(np.ldexp(1.0, int(np.clip(np.frexp(largest)[1], -1000, 1000))))


def mean_and_spread(truth: Array) -> tuple[float, float]:
    """Return the mean and the standard deviation of (rows,) numbers, without overflow; 1 for a spread of 0."""
    unit = target_unit(truth)
    values = truth / unit
    return float(values.mean()) * unit, float(values.std()) * unit or 1.0


def tree_unit(mean: float, spread: float) -> Unit:
    """Return the unit in which boosting learns a target of a mean and a standard deviation."""
    fits = _LEAST_SPREAD <= spread <= _MOST_SPREAD and abs(mean) <= _MOST_OFFSET * spread
    return OWN_UNIT if fits else Unit(mean, spread)


def squared_loss(loss: float, unit: float) -> float:
    """Return a mean squared error in the target's unit; the largest double where it overflows."""
    return min(loss * unit * unit, float(np.finfo(np.float64).max))
