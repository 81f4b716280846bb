"""Rows by the order of their values, in parts of about as many rows each."""

import numpy as np

from services.training.domain.families.frame import Array


def ordered_parts(values: Array, count: int) -> list[Array]:
    """Return the places of rows, from those of least values to those of most, in that many parts at most.

    Rows of one value share a part: which of them came first in the table says nothing.

    Args:
        values: (rows,) at least one.
        count: of parts.
    """
    order = np.argsort(values, kind="stable")
    # Where one value ends and the next begins: nowhere else may a part end.
    starts = np.concatenate([[0], np.flatnonzero(np.diff(values[order])) + 1, [len(values)]])
    wanted = np.cumsum([len(part) for part in np.array_split(order, count)])[:-1]
    after = np.searchsorted(starts, wanted)
    is_nearer = wanted - starts[after - 1] < starts[after] - wanted
    cuts = np.unique(starts[after - is_nearer])
    return np.split(order, cuts[(cuts > 0) & (cuts < len(values))])
