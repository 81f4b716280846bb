"""Rows of a table in memory that are not learned from, but tell how well what was learned does."""

import numpy as np

from services.training.domain.families.frame import Array


def drawn_aside(truth: Array, classes: int, count: int, seed: int) -> Array:
    """Return (rows,) which rows are set aside: a draw, without one row of any class that it would take whole.

    Args:
        truth: (rows,) class indexes; anything where there are no classes.
        classes: how many; 0 where there are none.
        count: of rows to draw.
        seed: of the draw.
    """
    aside = np.zeros(len(truth), dtype=bool)
    aside[np.random.default_rng(seed).permutation(len(truth))[:count]] = True
    for index in range(classes):
        rows = np.flatnonzero(truth == index)
        if len(rows) and aside[rows].all():
            # What no row shows cannot be learned.
            aside[rows[0]] = False
    return aside
