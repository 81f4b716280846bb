"""A number for each category, for trees: where it lies by the target of the rows that have it."""

import numpy as np

from services.training.domain.families.encoding import Encoded, Encoding
from services.training.domain.families.frame import Array
from services.training.domain.families.target import Target

# As many rows of the average are added to each value's own: a rare one says little.
_SMOOTHING_ROWS = 10.0
_FOLDS = 5


def outcome(truth: Array, target: Target) -> Array:
    """Return the one number a row that orders categories: the target, or for several classes a mixture of their shares.

    The mixture is the first principal component of the class indicators (after Coppersmith, Hong, Hosking, Partitioning
    nominal attributes in decision trees, Data Mining and Knowledge Discovery 3, 1999).
    """
    if target.task != "multiclass":
        return truth.astype(float)
    indicators = np.eye(len(target.classes))[truth]
    _, vectors = np.linalg.eigh(np.cov(indicators, rowvar=False))
    main = vectors[:, -1]
    # An eigenvector's sign is arbitrary: fixed, so that the same rows give the same model.
    return np.asarray(indicators @ (main * np.sign(main[np.abs(main).argmax()])))


def category_values(encoding: Encoding, codes: Array, outcomes: Array) -> Array:
    """Return (known categories + 1,) smoothed means of the outcome; the last, for unknown ones, is the mean of all."""
    counts = np.zeros(encoding.unknown + 1)
    sums = np.zeros(encoding.unknown + 1)
    for place in range(codes.shape[1]):
        np.add.at(counts, codes[:, place], 1.0)
        np.add.at(sums, codes[:, place], outcomes)
    # Values too rare to be known are the unknown ones of training: they stay at the mean, as all others will.
    counts[-1] = sums[-1] = 0.0
    return np.asarray((sums + _SMOOTHING_ROWS * outcomes.mean()) / (counts + _SMOOTHING_ROWS))


def training_values(encoding: Encoding, codes: Array, outcomes: Array, seed: int) -> Array:
    """Return (rows, categorical columns) values for training: each row's from the outcomes of other rows alone.

    With its own outcome in them, a column of names would tell a tree the answer and mean nothing on new rows
    (Micci-Barreca, A preprocessing scheme for high-cardinality categorical attributes, SIGKDD Explorations 3, 2001).
    """
    folds = np.random.default_rng(seed).permutation(len(codes)) % _FOLDS
    values = np.empty(codes.shape)
    for fold in np.unique(folds):
        inside = folds == fold
        others = ~inside if (~inside).any() else inside
        values[inside] = category_values(encoding, codes[others], outcomes[others])[codes[inside]]
    return values


def values_of(encoded: Encoded, values: Array) -> Array:
    """Return (rows, categorical columns): each category's value."""
    return np.asarray(values[encoded.codes])
