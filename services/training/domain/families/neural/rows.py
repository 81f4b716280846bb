"""Which rows a network learns from, and how much each class counts. In numpy alone: every network's fit begins here."""

import numpy as np

from services.training.domain.families.aside import drawn_aside
from services.training.domain.families.frame import Array
from services.training.domain.families.model import Run

_ASIDE = 0.1
_LEAST_ASIDE_ROWS = 10


def set_aside(truth: Array, classes: int, run: Run) -> Array:
    """Return which rows only decide when to stop; none without early stopping or with too few rows.

    Args:
        truth: (rows,) class indexes; anything where there are no classes.
        classes: how many; 0 where there are none. Of each a row at least is left.
        run: settings, seed.
    """
    count = round(len(truth) * _ASIDE)
    is_asked = run.number("early_stopping") and count >= _LEAST_ASIDE_ROWS
    return drawn_aside(truth, classes, count if is_asked else 0, run.seed)


def class_weights(truth: Array, classes: int, run: Run) -> Array:
    """Return (classes,) weights, ones unless classes are to be balanced; of all rows together their number."""
    return weights_of(np.bincount(truth, minlength=classes), run)


def weights_of(class_rows: Array, run: Run) -> Array:
    """Return the same by how many rows each class has."""
    if run.settings["class_weight"] != "balanced":
        return np.ones(len(class_rows))
    return np.asarray(class_rows.sum() / (len(class_rows) * np.maximum(class_rows, 1)))
