"""Counts how often values occur while they stream by."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc


class Counts:
    """Values with the rows that hold them, in order of first appearance; missing is a value, too."""

    def __init__(self) -> None:
        self._table: pa.Table | None = None

    def __len__(self) -> int:
        return 0 if self._table is None else int(self._table.num_rows)

    def add(self, values: pa.Array) -> None:
        """Count some more."""
        counted = pc.value_counts(values)
        fresh = pa.table({"value": counted.field("values"), "count": counted.field("counts")})
        if self._table is None:
            self._table = fresh
            return
        both = pa.concat_tables([self._table, fresh]).group_by("value", use_threads=False)
        self._table = both.aggregate([("count", "sum")]).rename_columns(["value", "count"])

    def keep(self, count: int) -> None:
        """Forget all but the most frequent."""
        if self._table is not None:
            self._table = self._table.take(pc.select_k_unstable(self._table, count, [("count", "descending")]))

    def most_frequent(self, count: int) -> list[tuple[str, int]]:
        """Return the most frequent values as texts, of equally frequent ones the least first."""
        if self._table is None:
            return []
        order = [("count", "descending"), ("value", "ascending")]
        found = self._table.take(pc.sort_indices(self._table, order)[:count])
        return list(zip(_texts(found["value"]), found["count"].to_pylist(), strict=True))

    @property
    def values(self) -> pa.Array:
        """The different values."""
        return pa.array([]) if self._table is None else self._table["value"].combine_chunks()

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many rows hold each."""
        return np.zeros(0, np.int64) if self._table is None else self._table["count"].to_numpy()


def _texts(values: pa.ChunkedArray) -> list[str]:
    # Arrow writes no durations.
    plain = values.cast(pa.int64()) if pa.types.is_duration(values.type) else values
    texts: list[str] = plain.cast(pa.string()).to_pylist()
    return texts
