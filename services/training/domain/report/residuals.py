"""How far predicted numbers are from the truth."""

from dataclasses import dataclass

import numpy as np

from services.training.domain.families.frame import Array
from services.training.domain.report.parts import ordered_parts

_MOST_POINTS = 400
_HISTOGRAM_BINS = 40
_GROUPS = 10
_LEAST_GROUP_ROWS = 10
# What lies outside would leave the rest of a histogram in one bin.
_SHOWN = (0.005, 0.995)
_LEAST_WIDTH = 1e-9


@dataclass(frozen=True)
class Residuals:
    """Prediction minus truth, in the target's unit.

    Args:
        bias: the mean.
        quantiles: of the absolute residual: the share of rows at or below, and it.
        points: (prediction, truth) of rows drawn evenly.
        groups: rows by their prediction, in tenths that cut no tie: mean prediction, mean truth, rows.
        edges, counts: a histogram; what lies outside is counted in its first and last bin.
    """

    bias: float
    quantiles: list[list[float]]
    points: list[list[float]]
    groups: list[list[float]]
    edges: list[float]
    counts: list[int]


def residuals(values: Array, truth: Array) -> Residuals:
    """Return what is to be seen of predictions, (rows,), beside the truth, (rows,)."""
    errors = values - truth
    low, high = np.quantile(errors, _SHOWN)
    if high - low <= _LEAST_WIDTH * max(abs(low), abs(high)):
        # A histogram needs bins that are distinct as doubles.
        half = max(0.5, _LEAST_WIDTH * max(abs(low), abs(high)))
        low, high = low - half, high + half
    counts, edges = np.histogram(errors.clip(low, high), bins=_HISTOGRAM_BINS, range=(low, high))
    drawn = np.arange(len(values))
    if len(values) > _MOST_POINTS:
        drawn = np.sort(np.random.default_rng(0).choice(len(values), _MOST_POINTS, replace=False))
    count = min(_GROUPS, max(1, len(values) // _LEAST_GROUP_ROWS))
    groups = ordered_parts(values, count)
    return Residuals(
        bias=float(errors.mean()),
        quantiles=[[share, float(np.quantile(np.abs(errors), share))] for share in (0.5, 0.9, 0.95, 0.99, 1.0)],
        points=[[float(values[row]), float(truth[row])] for row in drawn],
        groups=[[float(values[rows].mean()), float(truth[rows].mean()), float(len(rows))] for rows in groups],
        edges=edges.tolist(),
        counts=counts.tolist(),
    )
