"""What in rows looks wrong before a model learns from them: said to people, never a reason to refuse.

Looks at samples of rows, so that it costs a fit of a million rows next to nothing.
"""

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.training.domain.families.frame import Array, columns_of, is_numeric, normalize
from services.training.domain.families.metrics import roc_auc
from services.training.domain.families.target import Target, label_text, target_values

_SAMPLE_ROWS = 10_000
_MOST_COLUMNS = 200
_LEAST_ROWS = 50
# A column that tells the target as well as this by itself is too good to be true: the best single columns of real
# tables (the widest tumour's perimeter, the length of a petal) stay below.
_LEAKING_AREA, _LEAKING_SKILL, _LEAKING_R2 = 0.995, 0.98, 0.999
_LEAST_OF_EACH_KIND, _ENOUGH_OF_EACH_KIND = 8, 20
_BINS = 64
# By chance so many pairs of values would be equal, if the values were drawn from their range.
_EXPECTED_TWINS = 5.0
_IDENTIFIER_NAME = re.compile(r"(^|[_\s.-])(id|key|uuid|guid|index|nr|no|number)$", re.IGNORECASE)
_RARE_SHARE = 0.05
_EVALUATION_ROWS = 1_000
_MOST_LOOKED_AT, _MOST_CANDIDATES = 200_000, 20_000
_LEAST_SHARED, _LEAST_SHARED_SHARE = 2, 0.01


def cautions_of_columns(table: pa.Table, target: Target) -> list[str]:
    """Return what looks wrong in single columns: those that give the target away, and identifiers.

    Args:
        table: the training rows.
        target: what is predicted.
    """
    names = [name for name in table.column_names if name != target.name][:_MOST_COLUMNS]
    has_one = table.num_columns == 2
    sample = normalize(drawn(table.select([*names, target.name]), _SAMPLE_ROWS))
    if sample.num_rows < _LEAST_ROWS:
        return []
    truth = target_values(sample, target)
    found = []
    for name in names:
        column = sample.column(name)
        if column.equals(sample.column(target.name)):
            found.append(f"column {name!r} is a copy of the target {target.name!r}: drop it")
        elif not has_one and (told := _telling(column, truth, target)):
            found.append(
                f"column {name!r} alone tells the target {target.name!r} ({told} on {_rows(sample)}): if it is made "
                "from the target, or not known yet when a prediction is asked for, drop it"
            )
        elif not has_one and _is_identifier(name, column):
            found.append(
                f"column {name!r} has another value in each of {_rows(sample)}, as an identifier has: a model can "
                "learn nothing from it but the rows by heart; drop it, unless its order means something"
            )
    return found


def caution_of_imbalance(table: pa.Table, target: Target, class_weight: object) -> list[str]:
    """Return that a class is rare, where one is and nothing is done about it.

    Args:
        table: the training rows.
        target: what is predicted.
        class_weight: as set; balanced makes rare classes count more.
    """
    if not target.classes or class_weight == "balanced":
        return []
    counts = {label_text(item["values"]): item["counts"] for item in pc.value_counts(table[target.name]).to_pylist()}
    label = min(target.classes, key=lambda label: counts.get(label, 0))
    share = counts.get(label, 0) / max(1, table.num_rows)
    # Of many classes each has a small share: rare is what has far less than its part.
    if share >= min(_RARE_SHARE, 0.25 / len(target.classes)):
        return []
    return [
        f"class {label!r} of {target.name!r} is rare: {counts.get(label, 0):,} of {table.num_rows:,} rows "
        f"({share:.1%}), so that accuracy says little of it; class_weight='balanced' makes rare classes count more"
    ]


def caution_of_shared_rows(train: pa.Table, held_out: pa.Table, parent: str = "") -> list[str]:
    """Return that rows stand in both training and evaluation rows, where a good part of these does.

    Not where rows repeat everywhere, as they do in a table of a few kinds: that is how its rows come.

    Args:
        train: rows to learn from.
        held_out: rows to evaluate on.
        parent: the version that learned from those to learn from; empty for the model itself.
    """
    known_names = set(train.column_names)
    names = [name for name in held_out.column_names if name in known_names]
    sample = drawn(held_out.select(names), _EVALUATION_ROWS)
    wanted = list(_tuples(normalize(sample)))
    twins = Counter(wanted)
    if not names or sum(count for count in twins.values() if count > 1) > len(wanted) / 2:
        return []
    known = set(_tuples(normalize(_candidates(train.select(names), sample))))
    shared = sum(row in known for row in wanted)
    if shared < max(_LEAST_SHARED, _LEAST_SHARED_SHARE * len(wanted)):
        return []
    found = f"at least {shared:,} of {_rows(sample)} to evaluate on"
    if parent:
        return [
            f"{found} are among those that {parent} learned from: scores on them say little of new rows; evaluate on "
            "others (evaluation_data)"
        ]
    return [
        f"{found} stand in the training rows, too: scores on them say nothing of new rows; drop duplicates before rows "
        "are split (drop_duplicates)"
    ]


def drawn(table: pa.Table, most: int) -> pa.Table:
    """Return a table's rows, or a draw of them where there are more than some."""
    if table.num_rows <= most:
        return table
    return table.take(pa.array(np.sort(np.random.default_rng(0).choice(table.num_rows, most, replace=False))))


def _rows(sample: pa.Table) -> str:
    return f"{sample.num_rows:,} rows"


def _telling(column: pa.ChunkedArray, truth: Array, target: Target) -> str:
    """Return how well a column tells the target by itself, for people; empty where that is not suspicious."""
    numbers = _numbers(column)
    codes = _codes(column) if numbers is None else _bins(numbers)
    if codes is None:
        return ""
    # What the one half of the rows says of the column is tried on the other half.
    half = np.random.default_rng(0).random(len(truth)) < 0.5
    if target.task == "binary":
        area = max(_areas(numbers, codes, truth, half), default=0.0)
        return f"ROC AUC {area:.3f}" if area >= _LEAKING_AREA else ""
    if target.task == "multiclass":
        skill, accuracy = _skill(codes, truth, half, len(target.classes))
        return f"accuracy {accuracy:.3f}" if skill >= _LEAKING_SKILL else ""
    share = max(_explained(numbers, codes, truth, half), default=0.0)
    return f"R2 {share:.4f}" if share >= _LEAKING_R2 else ""


def _areas(numbers: Array | None, codes: Array, truth: Array, half: Array) -> Iterator[float]:
    scores = _means(codes[half], truth[half].astype(float), codes.max() + 1)[codes[~half]]
    yield _area(truth[~half] == 1, scores)
    if numbers is not None:
        known = ~np.isnan(numbers)
        yield _area(truth[known] == 1, numbers[known])


def _area(positive: Array, values: Array) -> float:
    fewest = min(positive.sum(), (~positive).sum())
    if fewest < _LEAST_OF_EACH_KIND:
        return 0.0
    area = roc_auc(positive, values) or 0.0
    area = max(area, 1 - area)
    # Of few rows a good column tells almost all by chance: then only all of them count.
    return area if fewest >= _ENOUGH_OF_EACH_KIND or area == 1.0 else 0.0


def _skill(codes: Array, truth: Array, half: Array, classes: int) -> tuple[float, float]:
    """Return which share of a blind guess's errors the most frequent class of each code avoids, and its accuracy."""
    counts = np.zeros((codes.max() + 1, classes))
    np.add.at(counts, (codes[half], truth[half]), 1)
    accuracy = float((counts.argmax(axis=1)[codes[~half]] == truth[~half]).mean())
    blind = float((truth[~half] == counts.sum(axis=0).argmax()).mean())
    return ((accuracy - blind) / (1 - blind) if blind < 1 else 0.0), accuracy


def _explained(numbers: Array | None, codes: Array, truth: Array, half: Array) -> Iterator[float]:
    spread = float(((truth[~half] - truth[~half].mean()) ** 2).sum())
    if spread > 0:
        guesses = _means(codes[half], truth[half], codes.max() + 1)[codes[~half]]
        yield 1 - float(((truth[~half] - guesses) ** 2).sum()) / spread
    if numbers is not None:
        known = ~np.isnan(numbers)
        values, goal = numbers[known], truth[known]
        if len(values) >= _LEAST_ROWS and np.ptp(values) > 0 and np.ptp(goal) > 0:
            yield float(np.corrcoef(values, goal)[0, 1]) ** 2
            # Also what only rises and falls with it.
            yield float(np.corrcoef(_ranks(values), _ranks(goal))[0, 1]) ** 2


def _means(codes: Array, values: Array, count: int) -> Array:
    """Return the mean of values by code; the mean of all where a code does not occur."""
    sums, rows = np.bincount(codes, values, count), np.bincount(codes, minlength=count)
    return np.asarray(np.where(rows > 0, sums / np.maximum(rows, 1), values.mean()))


def _ranks(values: Array) -> Array:
    return np.asarray(np.unique(values, return_inverse=True)[1].astype(float))


def _numbers(column: pa.ChunkedArray) -> Array | None:
    """Return a column as (rows,) numbers, NaN where missing; None where it holds none."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    elif not (is_numeric(kind) or pa.types.is_boolean(kind)):
        return None
    numbers = np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
    return np.where(np.isinf(numbers), np.nan, numbers)


def _bins(numbers: Array) -> Array:
    """Return (rows,) codes: frequent values have one each, the others share bins of as many rows; so has missing."""
    known = ~np.isnan(numbers)
    values, counts = np.unique(numbers[known], return_counts=True)
    # -1 may mean "never", which is no amount a little below 0.
    frequent = values if len(values) <= _BINS else values[counts >= known.sum() / _BINS]
    is_frequent = np.isin(numbers, frequent)
    rest = numbers[known & ~is_frequent]
    edges = np.quantile(rest, np.linspace(0, 1, _BINS + 1)[1:-1]) if len(rest) else np.zeros(0)
    binned = len(frequent) + 1 + np.searchsorted(edges, numbers)
    codes = np.where(is_frequent, np.searchsorted(frequent, numbers), binned)
    return np.asarray(np.where(known, codes, len(frequent)))


def _codes(column: pa.ChunkedArray) -> Array | None:
    """Return (rows,) codes of a column of texts; missing is one of its own; None where it holds none."""
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    return np.asarray(column.combine_chunks().dictionary_encode("encode").indices.to_numpy())


def _is_identifier(name: str, column: pa.ChunkedArray) -> bool:
    known = column.drop_null()
    count = len(known)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if count < _LEAST_ROWS or not (is_text or pa.types.is_integer(column.type)):
        return False
    if pc.count_distinct(known).as_py() < count:
        return False
    if is_text or _IDENTIFIER_NAME.search(name):
        return True
    # Amounts of a wide range are all different by chance, too.
    least, most = pc.min_max(known).as_py().values()
    return bool(count * (count - 1) / 2 / (most - least + 1) >= _EXPECTED_TWINS)


def _candidates(train: pa.Table, sample: pa.Table) -> pa.Table:
    """Return the rows of which each column's value occurs in a sample, some of them where they are many.

    The columns that rule out most come first, so that those after them are looked at in few rows.
    """
    left = np.arange(train.num_rows)
    wanted, found = columns_of(sample), columns_of(train)
    for name in sorted(wanted, key=lambda name: -pc.count_distinct(wanted[name], mode="all").as_py()):
        column = found[name] if len(left) == train.num_rows else found[name].take(pa.array(left))
        try:
            occurs = pc.is_in(column, pc.unique(wanted[name]).cast(column.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            # Of other types, they hold no equal rows.
            return train.slice(0, 0)
        left = left[np.asarray(occurs.to_numpy())]
        if len(left) > _MOST_LOOKED_AT:
            left = np.sort(np.random.default_rng(0).choice(left, _MOST_LOOKED_AT, replace=False))
        if not len(left):
            break
    return train.take(pa.array(left[:_MOST_CANDIDATES]))


def _tuples(table: pa.Table) -> Iterator[tuple[object, ...]]:
    return zip(*(column.to_pylist() for column in table.columns), strict=True)
