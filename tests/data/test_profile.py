"""A profile says what columns hold: exactly where they are small, closely where they are not."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.data.domain.columns import SERIES
from services.data.domain.profile import ColumnProfile, TableProfile


def _profile(table: pa.Table, batch_rows: int = 1000) -> list[ColumnProfile]:
    found = TableProfile(table.schema)
    for batch in table.to_batches(max_chunksize=batch_rows):
        found.update(batch)
    return found.finish()


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=60), st.integers(1, 20))
def test_numbers_agree_with_numpy(values: list[float | None], batch_rows: int) -> None:
    (found,) = _profile(pa.table({"x": pa.array(values, pa.float64())}), batch_rows)
    held = np.array([value for value in values if value is not None])
    assert found.missing == len(values) - len(held)
    if not len(held):
        assert (found.minimum, found.mean, found.standard_deviation, found.quartiles) == (None, None, None, ())
        return
    assert found.distinct == len(set(held.tolist()))
    assert (found.minimum, found.maximum) == (held.min(), held.max())
    assert found.mean == pytest.approx(held.mean(), abs=1e-6)
    assert found.quartiles == pytest.approx(np.quantile(held, [0.25, 0.5, 0.75]))
    if len(held) > 1:
        assert found.standard_deviation == pytest.approx(held.std(ddof=1), abs=1e-4)


def test_many_values_are_measured_closely() -> None:
    rows = 200_000
    table = pa.table(
        {
            "n": np.random.default_rng(1).permutation(rows),
            "id": [f"user-{number}" for number in range(rows)],
            "c": ["often"] * (rows // 2) + [f"rare-{number}" for number in range(rows // 2)],
        }
    )
    number, text, skewed = _profile(table)
    assert number.distinct == pytest.approx(rows, rel=0.04)
    assert text.distinct == pytest.approx(rows, rel=0.04)
    assert number.quartiles == pytest.approx((rows * 0.25, rows * 0.5, rows * 0.75), rel=0.05)
    assert skewed.top[0] == ("often", rows // 2)
    # The sample is drawn by rows, not by batches.
    assert [column.quartiles for column in _profile(table, 777)] == [number.quartiles, (), ()]


def test_other_kinds_list_their_frequent_values() -> None:
    second = dt.timedelta(seconds=1)
    table = pa.table(
        {
            "s": ["x", "x", "y", None],
            "b": [True, None, True, False],
            "t": pa.array([1, 1, 2, 3], pa.timestamp("ns")),
            "d": pa.array([dt.date(2024, 1, 1)] * 4),
            "w": pa.array([second, second, None, None]),
            "long": ["x" * 300, "y", "y", "x" * 300],
            "none": pa.array([None] * 4, pa.string()),
        }
    )
    found = {column.name: column for column in _profile(table)}
    assert found["s"].top == (("x", 2), ("y", 1))
    assert found["b"].top == (("true", 2), ("false", 1))
    assert found["t"].top[0] == ("1970-01-01 00:00:00.000000001", 2)
    assert found["d"].top == (("2024-01-01", 4),)
    assert found["w"].top == (("1000000", 2),)
    assert (found["long"].distinct, found["long"].top) == (2, (("y", 2),))
    assert (found["none"].missing, found["none"].distinct, found["none"].top) == (4, 0, ())


def test_series_are_measured_by_their_steps() -> None:
    lists = [[1.0, None, 3.0], [1.0, None, 3.0], None, [8.0], []]
    (found,) = _profile(pa.table({"x": pa.array(lists, SERIES)}), 2)
    assert (found.missing, found.distinct, found.minimum, found.maximum) == (1, 3, 1.0, 8.0)
    assert found.mean == pytest.approx(16 / 5)
    (empty,) = _profile(pa.table({"x": pa.array([[], None, [None]], SERIES)}))
    assert (empty.missing, empty.distinct, empty.mean) == (1, 2, None)


def test_numbers_at_the_end_of_what_doubles_hold_are_no_fault() -> None:
    (found,) = _profile(pa.table({"x": [1.7e308, -1.7e308, 1.7e308]}), 1)
    assert (found.minimum, found.maximum, found.standard_deviation) == (-1.7e308, 1.7e308, None)
