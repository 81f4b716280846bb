"""Forecasts are judged, and their intervals set, by the latest rows of each series."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.domain.families import fitting
from services.training.domain.families.series.split import latest_rows
from services.training.domain.families.target import Target
from tests.training.families.series.series_tables import HORIZON, shops, waves
from tests.training.families.training import train_any

TARGET = Target("wave_next", "forecasting", (), "FP32", HORIZON)


def _windows(shops_of_rows: list[str], times: list[int]) -> pa.Table:
    rows = len(times)
    return pa.table({"shop": shops_of_rows, "time": times, "wave": [[1.0]] * rows, "wave_next": [[2.0]] * rows})


def test_last_rows_of_every_series_are_held_out_in_their_order() -> None:
    table = shops({"a": 0.5, "b": 0.5})
    train, held_out = fitting.hold_out(table, TARGET, 0)
    # 201 windows each.
    for shop in ("a", "b"):
        whole, kept, held = (part.filter(pc.equal(part["shop"], shop)) for part in (table, train, held_out))
        assert held.num_rows in (20, 21)
        assert pa.concat_tables([kept, held]).equals(whole)
    assert held_out["shop"].to_pylist() == sorted(held_out["shop"].to_pylist())


@given(st.lists(st.integers(1, 40), min_size=2, max_size=9), st.floats(0.0, 1.0), st.booleans())
def test_share_is_that_of_all_rows_and_no_row_is_older_than_one_that_stays(
    sizes: list[int], share: float, is_mixed: bool
) -> None:
    rows = [(str(shop), time) for shop, size in enumerate(sizes) for time in range(size)]
    rows = sorted(rows, key=lambda row: (row[1], row[0])) if is_mixed else rows
    codes, times = np.array([shop for shop, _ in rows]), np.array([time for _, time in rows])
    latest = latest_rows(_windows(codes.tolist(), times.tolist()), "wave_next", share)
    assert latest.sum() == round(len(rows) * share)
    for shop, size in enumerate(sizes):
        is_shop = codes == str(shop)
        assert abs(latest[is_shop].sum() - size * share) <= 1.0
        assert max(times[is_shop & ~latest], default=-1) < min(times[is_shop & latest], default=size)


@pytest.mark.parametrize(
    "table",
    [
        waves(100),
        # Times that grow over all rows: the last ones are the latest of both.
        _windows(["a", "b"] * 50, list(range(100))),
        # Not in the order of time, so that this column is no series'.
        _windows(["a"] * 50 + ["b"] * 50, [*range(50), *range(50, 0, -1)]),
        _windows(["a", "b"] * 50, list(range(50)) * 2).drop(["time"]),
        _windows(["a", "b"] * 50, list(range(50)) * 2).set_column(0, "shop", pa.array([None, "b"] * 50)),
    ],
)
def test_last_rows_of_the_table_are_held_out_where_no_column_tells_series_apart(table: pa.Table) -> None:
    train, held_out = fitting.hold_out(table, TARGET, 0)
    cut = table.num_rows - round(table.num_rows * 0.1)
    assert train.equals(table.slice(0, cut))
    assert held_out.equals(table.slice(cut))
    # One row at least is judged.
    assert fitting.hold_out(table.slice(0, 4), TARGET, 0)[1].equals(table.slice(3, 1))


def test_intervals_are_set_by_the_last_rows_of_every_series() -> None:
    table = shops({"a": 3.0, "b": 0.1})
    train, _ = fitting.hold_out(table, TARGET, 0)
    # What is held out of it here is what sets the intervals of a model of all of it.
    _, aside = fitting.hold_out(train, TARGET, 0)
    model, _ = train_any(
        "rnn", shops({"a": 3.0, "b": 0.1}), "wave_next", {"epochs": 2, "hidden_size": 8, "coverage": 0.8}
    )
    found, truth = model.predict(aside), np.array(aside["wave_next"].to_pylist())
    assert found.interval is not None
    held = ((found.interval[0] <= truth) & (truth <= found.interval[1])).sum(axis=0)
    # The share that was asked, as exact as so many rows can say it, and a row for rounding.
    assert np.abs(held - np.ceil((len(truth) + 1) * 0.8)).max() <= 1
