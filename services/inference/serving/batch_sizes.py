"""How many rows of one form are worth a batch, learnt from the runs themselves.

What a batch saves depends on the shape of a row: of short texts a hundred go together, of long ones eight fill the
caches and more only wait. So each form tries, on requests that wait anyway, half and twice of what was best so far.
"""

from services.inference.serving.batch_cost import best_batch

_NEW_WEIGHT = 0.3
# So often the neighbours of the best size are tried anew: the machine's other work comes and goes.
_FORGET_RUNS = 256


class BatchSizes:
    """What batches of each size took. Used under the batcher's lock, but for `learn`, which any runner may call."""

    __slots__ = ("_best", "_runs", "_seconds")

    def __init__(self) -> None:
        # Of a run, by rows; sizes are powers of two.
        self._seconds: dict[int, float] = {}
        self._best = 0
        self._runs = 0

    def most(self, limit: int, waiting: int) -> int:
        """Return the most rows to put together now.

        Args:
            limit: the model's.
            waiting: rows that could be.
        """
        best = min(self._best, limit)
        if not best:
            return limit
        double = 2 * best
        if double <= min(limit, waiting) and double not in self._seconds:
            return limit
        if best > 1 and best // 2 not in self._seconds:
            return best // 2
        return best

    def learn(self, rows: int, seconds: float) -> None:
        """Remember what a run took; one of no rows tells nothing."""
        if not rows:
            return
        size = _nearest(rows)
        known = dict(self._seconds)
        # As if it had had exactly so many rows.
        took = seconds * size / rows
        known[size] = known.get(size, took) + _NEW_WEIGHT * (took - known.get(size, took))
        self._runs += 1
        self._best = best_batch(known)
        if self._runs % _FORGET_RUNS == 0:
            known = {self._best: known[self._best]}
        self._seconds = known


def _nearest(rows: int) -> int:
    """Return the power of two whose ratio to a number is least."""
    below = 1 << (rows.bit_length() - 1)
    return 2 * below if rows * rows > 2 * below * below else below
