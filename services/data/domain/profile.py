"""What a table's columns hold, measured while its rows stream by, in bounded memory."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from services.data.domain.columns import SERIES, Words, hashes, series
from services.data.domain.counts import Counts
from services.data.domain.types import ColumnKind, kind_of

_TOP = 20
# Beyond so many different values a column's rare ones are dropped while counting: the frequent ones stay.
_COUNTED = 20_000
# Up to here different values are counted one by one, as the contract says.
_EXACT = 10_000
_EXACT_BYTES = 8 << 20
# A longer text is no category: it is not counted among the frequent ones.
_TOP_BYTES = 256
_HYPERLOGLOG_BITS = 14
# Values kept for the quartiles, of all columns together and of one.
_KEPT_IN_ALL = 2_000_000
_KEPT_LEAST, _KEPT_MOST = 200, 20_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ColumnProfile:
    """What one column holds.

    Args:
        name: the column.
        missing: rows without a value.
        distinct: different values; approximate (1%) above 10,000.
        minimum, maximum, mean, standard_deviation: of a numeric column, or of a series' steps; None for others, without
            values, or where doubles cannot hold it.
        quartiles: lower, median, upper, of a numeric column; of a sample where there are many rows.
        top: the most frequent values with their counts, for the other kinds; texts beyond 256 bytes are left out.
    """

    name: str
    missing: int
    distinct: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    standard_deviation: float | None = None
    quartiles: tuple[float, ...] = ()
    top: tuple[tuple[str, int], ...] = ()


class TableProfile:
    """Measures a table's columns.

    Args:
        schema: of all batches.
    """

    def __init__(self, schema: pa.Schema) -> None:
        kept = min(max(_KEPT_IN_ALL // max(len(schema), 1), _KEPT_LEAST), _KEPT_MOST)
        self._columns = [_Column(field, kept) for field in schema]

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next rows."""
        for measured, column in zip(self._columns, batch.columns, strict=True):
            measured.update(column)

    def finish(self) -> list[ColumnProfile]:
        """Return one profile a column."""
        return [column.finish() for column in self._columns]


class _Column:
    def __init__(self, field: pa.Field, kept: int) -> None:
        self._name = field.name
        self._missing = 0
        self._is_series = field.type == SERIES
        # Series are told apart by their hashes.
        self._distinct = _Distinct(pa.uint64() if self._is_series else field.type)
        is_numeric = self._is_series or kind_of(str(field.type)) is ColumnKind.NUMERIC
        self._moments = _Moments(kept) if is_numeric else None
        self._frequent = None if is_numeric else _Frequent()

    def update(self, column: pa.Array) -> None:
        self._missing += column.null_count
        values = column.drop_null()
        if not len(values):
            return
        if self._is_series:
            self._distinct.update(pa.array(hashes(values)))
            values = pa.array(series(values)[1], from_pandas=True).drop_null()
            if not len(values):
                return
        else:
            self._distinct.update(values)
        if self._moments is not None:
            self._moments.update(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
        if self._frequent is not None:
            self._frequent.update(values)

    def finish(self) -> ColumnProfile:
        if self._frequent is not None:
            top = self._frequent.top()
            return ColumnProfile(self._name, self._missing, self._distinct.count(), top=top)
        assert self._moments is not None
        found = self._moments
        return ColumnProfile(
            self._name,
            self._missing,
            self._distinct.count(),
            _finite(found.least),
            _finite(found.most),
            _finite(found.mean) if found.count else None,
            _finite(np.sqrt(found.squares / (found.count - 1))) if found.count > 1 else None,
            found.quartiles(),
        )


class _Distinct:
    """Counts different values, one by one as long as they are few, then by HyperLogLog (Flajolet et al., 2007)."""

    def __init__(self, kind: pa.DataType) -> None:
        self._seen: pa.Array | None = pa.array([], kind)
        self._registers = np.zeros(0, np.uint8)

    def update(self, values: pa.Array) -> None:
        if pa.types.is_floating(values.type):
            # Zero has two signs and is one value.
            values = pc.add(values, pa.scalar(0.0, values.type))
        unique = pc.unique(values)
        if self._seen is None:
            self._add(hashes(unique))
            return
        self._seen = pc.unique(pa.concat_arrays([self._seen, unique]))
        if len(self._seen) > _EXACT or self._seen.nbytes > _EXACT_BYTES:
            self._registers = np.zeros(1 << _HYPERLOGLOG_BITS, np.uint8)
            self._add(hashes(self._seen))
            self._seen = None

    def count(self) -> int:
        if self._seen is not None:
            return len(self._seen)
        size = len(self._registers)
        estimate = 0.7213 / (1 + 1.079 / size) * size * size / np.sum(2.0 ** -self._registers.astype(np.float64))
        empty = int(np.count_nonzero(self._registers == 0))
        if estimate <= 2.5 * size and empty:
            estimate = size * np.log(size / empty)
        return round(float(estimate))

    def _add(self, words: Words) -> None:
        rest_bits = 64 - _HYPERLOGLOG_BITS
        rest = words & np.uint64((1 << rest_bits) - 1)
        # The exponent of a number is the place of its highest bit; doubles hold 50 bits exactly.
        ranks = rest_bits - np.frexp(rest.astype(np.float64))[1] + 1
        np.maximum.at(self._registers, (words >> np.uint64(rest_bits)).astype(np.int64), ranks.astype(np.uint8))


class _Moments:
    """Extremes, mean, squared deviations (Chan, Golub and LeVeque, 1983) and a seeded sample of numbers."""

    def __init__(self, kept: int) -> None:
        self.count = 0
        self.mean = self.squares = 0.0
        self.least, self.most = np.inf, -np.inf
        self._kept = kept
        # A fixed seed: the profile of the same rows is the same. Made once there is more than is kept.
        self._draws: np.random.Generator | None = None
        self._keys = np.zeros(0)
        self._sample: Floats = np.zeros(0)

    def update(self, values: Floats) -> None:
        # Numbers near the end of what doubles hold give infinities here, which are left out at the end.
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.mean(values)
            total = self.count + len(values)
            apart = np.square(mean - self.mean)
            self.squares += float(np.sum((values - mean) ** 2) + apart * (self.count * len(values) / total))
            self.mean += float((mean - self.mean) * (len(values) / total))
        self.count = total
        self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))
        self._draw(values)

    def quartiles(self) -> tuple[float, ...]:
        if not self.count:
            return ()
        with np.errstate(over="ignore", invalid="ignore"):
            found = np.quantile(self._sample, [0.25, 0.5, 0.75])
        return tuple(float(value) for value in found) if np.isfinite(found).all() else ()

    def _draw(self, values: Floats) -> None:
        """Keep the values that drew the smallest numbers: each has the same chance."""
        if self._draws is None:
            if len(self._sample) + len(values) <= self._kept:
                self._sample = np.concatenate([self._sample, values])
                return
            self._draws = np.random.default_rng(0)
            self._keys = self._draws.random(len(self._sample))
        keys = self._draws.random(len(values))
        if len(self._keys) == self._kept:
            lower = keys < self._keys.max()
            keys, values = keys[lower], values[lower]
        self._keys, self._sample = np.concatenate([self._keys, keys]), np.concatenate([self._sample, values])
        if len(self._keys) > self._kept:
            chosen = np.argpartition(self._keys, self._kept - 1)[: self._kept]
            self._keys, self._sample = self._keys[chosen], self._sample[chosen]


class _Frequent:
    """Counts how often values occur, dropping the rarest when there are many."""

    def __init__(self) -> None:
        self._counts = Counts()

    def update(self, values: pa.Array) -> None:
        if pa.types.is_string(values.type):
            values = values.filter(pc.less_equal(pc.binary_length(values), _TOP_BYTES))
        self._counts.add(values)
        if len(self._counts) > _COUNTED:
            self._counts.keep(_COUNTED // 2)

    def top(self) -> tuple[tuple[str, int], ...]:
        return tuple(self._counts.most_frequent(_TOP))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
