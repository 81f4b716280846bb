"""How well scores tell one class from the rest, and whether they are to be taken at their word."""

from dataclasses import dataclass

import numpy as np

from services.training.domain.families.frame import Array
from services.training.domain.families.metrics import roc_auc
from services.training.domain.report.parts import ordered_parts

_MOST_POINTS = 200
_MOST_BINS = 10
_LEAST_BIN_ROWS = 10
_SCORE_BINS = 20
_THRESHOLDS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))
# Of the normal distribution: what 95% lie within.
_NORMAL_95 = 1.96

Points = list[list[float]]


@dataclass(frozen=True)
class Curves:
    """One class against the rest.

    Args:
        label: of the class.
        rows: of that class.
        roc_auc, roc_auc_low, roc_auc_high: with the ends of its 95% interval.
        average_precision: mean precision over recall.
        ks: largest distance between the shares of either kind that a threshold takes (Kolmogorov and Smirnov).
        brier: mean squared distance of probability and truth.
        calibration_error: mean distance of probability and observed share over the bins, by their rows.
        roc: (false positive rate, true positive rate) from 0, 0 to 1, 1.
        precision_recall: (recall, precision) from high thresholds to low ones.
        calibration: a bin each: mean probability, observed share, ends of its 95% interval, rows.
        thresholds: a threshold each: it, share of rows at or above, precision, recall, false positive rate.
        histogram: rows of the rest and of the class by probability, in twentieths.
    """

    label: str
    rows: int
    roc_auc: float
    roc_auc_low: float
    roc_auc_high: float
    average_precision: float
    ks: float
    brier: float
    calibration_error: float
    roc: Points
    precision_recall: Points
    calibration: Points
    thresholds: Points
    histogram: list[list[int]]


def curves(label: str, positive: Array, scores: Array) -> Curves | None:
    """Return a class's curves; None where all rows, or none, are of the class.

    Args:
        label: of the class.
        positive: (rows,) whether a row is of the class.
        scores: (rows,) probabilities of it.
    """
    area = roc_auc(positive, scores)
    if area is None:
        return None
    taken, found = _by_threshold(positive, scores)
    positives, negatives = int(found[-1]), int(taken[-1] - found[-1])
    recall, false_rate = found / positives, (taken - found) / negatives
    precision = found[1:] / taken[1:]
    low, high = _area_interval(area, positives, negatives)
    bins = _calibration(positive, scores)
    return Curves(
        label=label,
        rows=positives,
        roc_auc=area,
        roc_auc_low=low,
        roc_auc_high=high,
        # As scikit-learn has it: no interpolation, which would flatter.
        average_precision=float((np.diff(recall) * precision).sum()),
        ks=float((recall - false_rate).max()),
        brier=float(((scores - positive) ** 2).mean()),
        calibration_error=sum(abs(mean - share) * rows for mean, share, _, _, rows in bins) / len(scores),
        roc=_thinned(false_rate, recall),
        precision_recall=_thinned(recall[1:], precision),
        calibration=bins,
        thresholds=[_at(threshold, positive, scores) for threshold in _THRESHOLDS],
        histogram=[
            np.histogram(scores[positive == kind], bins=_SCORE_BINS, range=(0.0, 1.0))[0].tolist()
            for kind in (False, True)
        ],
    )


def share_interval(hits: float, rows: int) -> tuple[float, float]:
    """Return the ends of a share's 95% interval.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    share, square = hits / rows, _NORMAL_95**2
    middle = (share + square / (2 * rows)) / (1 + square / rows)
    half = _NORMAL_95 / (1 + square / rows) * np.sqrt(share * (1 - share) / rows + square / (4 * rows**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _by_threshold(positive: Array, scores: Array) -> tuple[Array, Array]:
    """Return how many rows, and how many of the class, each threshold takes, from none to all."""
    order = np.argsort(-scores, kind="stable")
    # Rows of one score are taken together.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = np.cumsum(positive[order])[ends]
    return np.append(0, ends + 1), np.append(0, found)


def _area_interval(area: float, positives: int, negatives: int) -> tuple[float, float]:
    """Return the ends of a ROC area's 95% interval.

    Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
    """
    both_above = area / (2 - area)
    above_both = 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (positives - 1) * (both_above - area**2) + (negatives - 1) * (above_both - area**2)
    half = _NORMAL_95 * float(np.sqrt(max(spread, 0.0) / (positives * negatives)))
    return max(0.0, area - half), min(1.0, area + half)


def _calibration(positive: Array, scores: Array) -> Points:
    """Return bins of about as many rows each: equal widths would leave most of them empty where a class is rare."""
    count = min(_MOST_BINS, max(1, len(scores) // _LEAST_BIN_ROWS))
    bins = []
    for rows in ordered_parts(scores, count):
        hits = float(positive[rows].sum())
        bins.append([float(scores[rows].mean()), hits / len(rows), *share_interval(hits, len(rows)), float(len(rows))])
    return bins


def _at(threshold: float, positive: Array, scores: Array) -> list[float]:
    taken = scores >= threshold
    hits = float((taken & positive).sum())
    false = float(taken.sum()) - hits
    precision = hits / (hits + false) if hits + false else 0.0
    return [threshold, float(taken.mean()), precision, hits / float(positive.sum()), false / float((~positive).sum())]


def _thinned(x: Array, y: Array) -> Points:
    """Return a curve by few enough points, as far apart from each other along it as can be, its ends among them."""
    along = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    wanted = np.linspace(0.0, along[-1], _MOST_POINTS)
    places = np.unique(np.append(np.searchsorted(along, wanted).clip(0, len(x) - 1), [0, len(x) - 1]))
    return [[float(x[place]), float(y[place])] for place in places]
