"""Rows that judge, of a table that does not fit."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array
from services.training.domain.families.streamed.draws import Purpose, drawn_points
from services.training.domain.families.streamed.rows import RowSource, pieces


def sample(
    source: RowSource, seed: int, most_bytes: int, share: float = 1.0, check: Callable[[], None] = lambda: None
) -> pa.Table:
    """Return a seeded draw of the rows, normalised: a share of them, or half as many as often as it takes to fit.

    Rows that a fit of the same seed holds out come first: a smaller share of these is what is drawn of them.

    Args:
        source: the rows.
        seed: of the draw.
        most_bytes: that it takes.
        share: of all rows, 0 to 1.
        check: raises where the reading is to stop; asked at every piece.
    """
    kept: list[tuple[Array, pa.Table]] = []
    size = 0
    for first, table in pieces(source):
        check()
        points = drawn_points(np.arange(first, first + table.num_rows), seed, Purpose.HELD_OUT)
        drawn = _below(points, table, share)
        # A piece of which nothing is drawn is kept only as the first: it tells the columns.
        if drawn[1].num_rows or not kept:
            kept.append(drawn)
            size += drawn[1].nbytes
        while size > most_bytes and share > 2.0**-60:
            share /= 2
            # As one: a piece is looked at in one halving, not in all that follow.
            kept = [_joined([_below(points, rows, share) for points, rows in kept])]
            size = kept[0][1].nbytes
    return pa.concat_tables([rows for _, rows in kept])


def _joined(parts: list[tuple[Array, pa.Table]]) -> tuple[Array, pa.Table]:
    rows = pa.concat_tables([rows for _, rows in parts])
    return np.concatenate([points for points, _ in parts]), rows.combine_chunks()


def _below(points: Array, table: pa.Table, share: float) -> tuple[Array, pa.Table]:
    chosen = points < share
    return points[chosen], table.filter(pa.array(chosen))
