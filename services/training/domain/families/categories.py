"""A number for each category, for trees: where it lies by the target of the rows that have it."""

import numpy as np

from services.training.domain.families.encoding import Encoded, Encoding
from services.training.domain.families.frame import Array
from services.training.domain.families.target import Target

# As many rows of the average are added to each value's own: a rare one says little.
_SMOOTHING_ROWS = 10.0
FOLDS = 5


def outcome(truth: Array, target: Target) -> Array:
    """Return the one number a row that orders categories: the target, or for several classes a mixture of their shares.

    The mixture is the first principal component of the class indicators (after Coppersmith, Hong, Hosking, Partitioning
    nominal attributes in decision trees, Data Mining and Knowledge Discovery 3, 1999).
    """
    if target.task != "multiclass":
        return truth.astype(float)
    return np.asarray(class_outcomes(np.bincount(truth, minlength=len(target.classes)))[truth])


def class_outcomes(class_rows: Array) -> Array:
    """Return (classes,) the mixture for a row of each of several classes, by how many rows each has."""
    shares = class_rows / class_rows.sum()
    # The covariance of the indicators.
    _, vectors = np.linalg.eigh(np.diag(shares) - np.outer(shares, shares))
    main = vectors[:, -1]
    # An eigenvector's sign is arbitrary: fixed, so that the same rows give the same model.
    return np.asarray(main * np.sign(main[np.abs(main).argmax()]))


def category_values(encoding: Encoding, codes: Array, outcomes: Array) -> Array:
    """Return (known categories + 1,) smoothed means of the outcome; the last, for unknown ones, is the mean of all."""
    counts = np.zeros(encoding.unknown + 1)
    sums = np.zeros(encoding.unknown + 1)
    for place in range(codes.shape[1]):
        np.add.at(counts, codes[:, place], 1.0)
        np.add.at(sums, codes[:, place], outcomes)
    return smoothed(counts, sums, outcomes.mean())


def smoothed(counts: Array, sums: Array, mean: float) -> Array:
    """Return (known categories + 1,) smoothed means by the rows of each, their sums, and the mean of all."""
    # Values too rare to be known are the unknown ones of training: they stay at the mean, as all others will.
    known = np.arange(len(counts)) < len(counts) - 1
    return np.asarray((sums * known + _SMOOTHING_ROWS * mean) / (counts * known + _SMOOTHING_ROWS))


def training_values(encoding: Encoding, codes: Array, outcomes: Array, seed: int) -> Array:
    """Return (rows, categorical columns) values for training: each row's from the outcomes of other rows alone.

    With its own outcome in them, a column of names would tell a tree the answer and mean nothing on new rows
    (Micci-Barreca, A preprocessing scheme for high-cardinality categorical attributes, SIGKDD Explorations 3, 2001).
    """
    if not codes.shape[1]:
        return np.empty(codes.shape)
    folds = np.random.default_rng(seed).permutation(len(codes)) % FOLDS
    values = np.empty(codes.shape)
    for fold in np.unique(folds):
        inside = folds == fold
        others = ~inside if (~inside).any() else inside
        values[inside] = category_values(encoding, codes[others], outcomes[others])[codes[inside]]
    return values


def values_of(encoded: Encoded, values: Array) -> Array:
    """Return (rows, categorical columns): each category's value."""
    return np.asarray(values[encoded.codes])
