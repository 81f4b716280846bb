"""The rows of a table by one of its columns: by value, or by quartile where values are numbers or times."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.training.domain.families.frame import Array, is_numeric

# Numbers with no more different values than this count as kinds, not amounts.
_MOST_VALUES = 12
_LONGEST_LABEL = 60
_LARGEST_WHOLE = 1e15
_QUARTERS = (0.25, 0.5, 0.75)


def groups(column: pa.ChunkedArray) -> Iterator[tuple[str, Array]]:
    """Yield groups of a normalised column's rows: a label for people, and (rows,) which are of it.

    Texts that hardly repeat are grouped by their length; columns of other types are not grouped.
    """
    missing = _mask(pc.is_null(column))
    if missing.any():
        yield "missing", missing
    kind = column.type
    distinct = pc.count_distinct(column, mode="only_valid").as_py()
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        yield from _quarters(_numbers(column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())), _as_time)
    elif is_numeric(kind) and distinct > _MOST_VALUES:
        yield from _quarters(_numbers(column), _as_number)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        if distinct > max(_MOST_VALUES, len(column) / 2):
            yield from _quarters(_numbers(pc.utf8_length(column)), lambda value: f"{value:.0f} characters")
        else:
            yield from _values(column)
    elif is_numeric(kind) or pa.types.is_boolean(kind):
        yield from _values(column)


def shortened(text: str) -> str:
    """Return a label as a page has room for it."""
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


def _values(column: pa.ChunkedArray) -> Iterator[tuple[str, Array]]:
    counts = [item for item in pc.value_counts(column).to_pylist() if item["values"] is not None]
    frequent = sorted(counts, key=lambda item: (-item["counts"], str(item["values"])))[:_MOST_VALUES]
    for item in frequent:
        value = item["values"]
        text = _as_number(value) if isinstance(value, float) else str(value)
        yield shortened(text) or "(empty)", _mask(pc.equal(column, pa.scalar(value, column.type)))


def _quarters(values: Array, text: Callable[[float], str]) -> Iterator[tuple[str, Array]]:
    known = values[~np.isnan(values)]
    if not len(known):
        return
    # Of values that occur, and none twice: a column that is mostly one value has fewer than four groups.
    edges = np.unique(np.quantile(known, _QUARTERS, method="lower"))
    edges = edges[edges < known.max()]
    if not len(edges):
        return
    for place in range(len(edges) + 1):
        if place == 0:
            yield f"at most {text(edges[0])}", values <= edges[0]
        elif place == len(edges):
            yield f"above {text(edges[-1])}", values > edges[-1]
        else:
            inside = (values > edges[place - 1]) & (values <= edges[place])
            yield f"above {text(edges[place - 1])}, at most {text(edges[place])}", inside


def _numbers(column: pa.ChunkedArray) -> Array:
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy())


def _mask(marks: pa.ChunkedArray) -> Array:
    return np.asarray(pc.fill_null(marks, False).to_numpy()).astype(bool)


def _as_number(value: float) -> str:
    # Whole numbers whole: a year or an amount has no use for a power of ten.
    return f"{value:.0f}" if value.is_integer() and abs(value) < _LARGEST_WHOLE else f"{value:.4g}"


def _as_time(seconds: float) -> str:
    return str(np.datetime64(int(seconds), "s")).replace("T", " ").removesuffix(" 00:00:00")
