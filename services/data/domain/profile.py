"""What a table's columns hold, measured while its rows stream by, in bounded memory."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from services.data.domain.expressions import quoted
from services.data.domain.types import ColumnKind, kind_of

_TOP = 20
# Beyond so many different values a column's rare ones are dropped while counting: the frequent ones stay.
_COUNTED = 20_000


@dataclass(frozen=True)
class ColumnProfile:
    """What one column holds.

    Args:
        name: the column.
        missing: rows without a value.
        distinct: different values, approximate.
        minimum, maximum, mean, standard_deviation: of a numeric column; None for others, or without values.
        quartiles: lower, median, upper, approximate; of a numeric column.
        top: the most frequent values with their counts, for the other kinds.
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


def profile_table(open_table: Callable[[], pa.RecordBatchReader]) -> list[ColumnProfile]:
    """Return one profile a column; reads the table twice."""
    schema = open_table().schema
    aggregates = [_aggregates(field) for field in schema]
    # In memory alone: an aggregate holds little, and nothing of it may touch a disk.
    connection = duckdb.connect(config={"threads": 2, "temp_directory": ""})
    connection.register("source", open_table())
    flat = [expression for expressions in aggregates for expression in expressions]
    values = list(connection.execute(f"SELECT {', '.join(flat)} FROM source").fetchone() or ())
    connection.close()
    tops = _most_frequent(open_table())
    profiles = []
    for field, expressions in zip(schema, aggregates, strict=True):
        own, values = values[: len(expressions)], values[len(expressions) :]
        profiles.append(_profile(field.name, own, tops.get(field.name, ())))
    return profiles


def _aggregates(field: pa.Field) -> list[str]:
    name = quoted(field.name)
    common = [f"count(*) - count({name})", f"approx_count_distinct({name})"]
    if kind_of(str(field.type)) is not ColumnKind.NUMERIC:
        return common
    value = f"CAST({name} AS DOUBLE)"
    quartiles = f"approx_quantile({value}, [0.25, 0.5, 0.75])"
    return [*common, f"min({value})", f"max({value})", f"avg({value})", f"stddev_samp({value})", quartiles]


def _profile(name: str, values: list[object], top: tuple[tuple[str, int], ...]) -> ColumnProfile:
    missing, distinct = int(str(values[0])), int(str(values[1]))
    if len(values) == 2:
        return ColumnProfile(name, missing, distinct, top=top)
    least, most, mean, deviation = (None if value is None else float(str(value)) for value in values[2:6])
    quartiles = tuple(float(value) for value in values[6]) if isinstance(values[6], list) and least is not None else ()
    return ColumnProfile(name, missing, distinct, least, most, mean, deviation, quartiles)


def _most_frequent(reader: pa.RecordBatchReader) -> dict[str, tuple[tuple[str, int], ...]]:
    names = [field.name for field in reader.schema if kind_of(str(field.type)) is not ColumnKind.NUMERIC]
    counters: dict[str, Counter[str]] = {name: Counter() for name in names}
    for batch in reader:
        for name, counter in counters.items():
            for item in pc.value_counts(batch.column(name).drop_null()).to_pylist():
                counter[str(item["values"])] += item["counts"]
            if len(counter) > _COUNTED:
                counters[name] = Counter(dict(counter.most_common(_COUNTED // 2)))
    return {name: tuple(counter.most_common(_TOP)) for name, counter in counters.items()}
