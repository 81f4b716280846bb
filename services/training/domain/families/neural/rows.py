"""Which rows a network learns from, and how much each class counts. In numpy alone: every network's fit begins here."""

import numpy as np

from services.training.domain.families.frame import Array
from services.training.domain.families.model import Run

_ASIDE = 0.1
_LEAST_ASIDE_ROWS = 10


def set_aside(rows: int, run: Run) -> Array:
    """Return which rows only decide when to stop; none without early stopping or with too few rows."""
    aside = np.zeros(rows, dtype=bool)
    count = round(rows * _ASIDE)
    if run.number("early_stopping") and count >= _LEAST_ASIDE_ROWS:
        aside[np.random.default_rng(run.seed).permutation(rows)[:count]] = True
    return aside


def class_weights(truth: Array, classes: int, run: Run) -> Array:
    """Return (classes,) weights, ones unless classes are to be balanced; of all rows together their number."""
    return weights_of(np.bincount(truth, minlength=classes), run)


def weights_of(class_rows: Array, run: Run) -> Array:
    """Return the same by how many rows each class has."""
    if run.settings["class_weight"] != "balanced":
        return np.ones(len(class_rows))
    return np.asarray(class_rows.sum() / (len(class_rows) * np.maximum(class_rows, 1)))
