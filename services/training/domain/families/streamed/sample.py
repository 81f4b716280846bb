"""Rows that judge, of a table that does not fit."""

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array
from services.training.domain.families.streamed.draws import Purpose, drawn_points
from services.training.domain.families.streamed.rows import RowSource, pieces


def sample(source: RowSource, seed: int, most_bytes: int, share: float = 1.0) -> pa.Table:
    """Return a seeded draw of the rows, normalised: a share of them, or half as many as often as it takes to fit.

    Rows that a fit of the same seed holds out come first: a smaller share of these is what is drawn of them.
    """
    kept: list[tuple[Array, pa.Table]] = []
    for first, table in pieces(source):
        points = drawn_points(np.arange(first, first + table.num_rows), seed, Purpose.HELD_OUT)
        kept.append(_below(points, table, share))
        while sum(rows.nbytes for _, rows in kept) > most_bytes and share > 2.0**-60:
            share /= 2
            kept = [_below(points, rows, share) for points, rows in kept]
    return pa.concat_tables([rows for _, rows in kept])


def _below(points: Array, table: pa.Table, share: float) -> tuple[Array, pa.Table]:
    chosen = points < share
    return points[chosen], table.filter(pa.array(chosen))
