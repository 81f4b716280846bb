"""Scores to probabilities that hold: of a hundred rows said to be 0.8 likely, eighty are so."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from services.training.domain.families.frame import Array

# Fewer rows tell too little of two numbers.
LEAST_ROWS = 20
_LARGEST_SLOPE = 100.0


@dataclass(frozen=True)
class Calibration:
    """A straight line over log odds.

    Args:
        slope: over 1 makes probabilities more certain, under 1 less.
        shift: added; 0 for more than two classes.
    """

    slope: float = 1.0
    shift: float = 0.0

    def apply(self, odds: Array) -> Array:
        """Return calibrated log odds."""
        return np.asarray(self.slope * odds + self.shift)


AS_IT_IS = Calibration()


def fit_calibration(odds: Array, truth: Array) -> Calibration:
    """Fit the line on rows that the model did not learn from.

    Two classes: Platt's scaling, its goals smoothed by the number of rows of each class (Platt, Probabilistic Outputs
    for Support Vector Machines, 1999). More: one temperature (Guo et al., On Calibration of Modern Neural Networks,
    ICML 2017).

    Args:
        odds: (rows, 1) log odds of the second of two classes, or (rows, classes).
        truth: (rows,) class indexes.
    """
    if odds.shape[1] > 1:
        found = minimize(lambda at: _cross_entropy(at[0] * odds, truth), [1.0], bounds=[(1e-3, _LARGEST_SLOPE)])
        return Calibration(float(found.x[0]))
    positive = int(truth.sum())
    negative = len(truth) - positive
    goals = np.where(truth == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(at: Array) -> float:
        line = at[0] * odds[:, 0] + at[1]
        return float((np.logaddexp(0.0, line) - goals * line).mean())

    found = minimize(loss, [1.0, 0.0], bounds=[(1e-3, _LARGEST_SLOPE), (None, None)])
    return Calibration(float(found.x[0]), float(found.x[1]))


def _cross_entropy(odds: Array, truth: Array) -> float:
    total = np.logaddexp.reduce(odds, axis=1)
    return float((total - odds[np.arange(len(truth)), truth]).mean())
