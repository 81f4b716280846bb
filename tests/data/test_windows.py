"""Windows of series: they hold what they should, never cross series, and stream."""

import datetime as dt
from collections.abc import Sequence
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.data.domain import windows
from services.data.domain.transform import Transform
from services.data.domain.types import Recipe, Step

DEFAULTS: dict[str, object] = {
    "series": "",
    "order": "time",
    "channels": ["x"],
    "length": 3,
    "min_length": 0,
    "horizon": 0,
    "stride": 0,
    "target": "",
}


def _made(table: pa.Table, rows: int = 2, **arguments: object) -> pa.Table:
    transform = Transform(Recipe((Step("windows", {**DEFAULTS, **arguments}),)), table.schema)
    return pa.Table.from_batches(
        list(transform.run(lambda: iter(table.to_batches(max_chunksize=rows)))), transform.schema
    )


def _numbered(count: int) -> pa.Table:
    return pa.table({"time": range(count), "x": [float(place) for place in range(count)]})


def test_windows_end_where_their_horizon_still_follows() -> None:
    found = _made(_numbered(6), horizon=2, target="x").to_pylist()
    assert found == [
        {"time": 2, "x": [0.0, 1.0, 2.0], "x_next": [3.0, 4.0]},
        {"time": 3, "x": [1.0, 2.0, 3.0], "x_next": [4.0, 5.0]},
    ]


def test_windows_at_the_start_of_a_series_are_shorter_where_that_is_wished() -> None:
    assert _made(_numbered(4), min_length=1)["x"].to_pylist() == [[0.0], [0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]]


def test_stride_skips_windows() -> None:
    assert _made(_numbered(9), stride=3)["time"].to_pylist() == [2, 5, 8]


def test_label_is_the_value_at_the_windows_end() -> None:
    table = _numbered(4).append_column("kind", pa.array(["a", "b", None, "d"]))
    found = _made(table, length=1, target="kind")
    # Without a label there is nothing to learn from.
    assert found["kind"].to_pylist() == ["a", "b", "d"]
    assert found["x"].to_pylist() == [[0.0], [1.0], [3.0]]


def test_missing_values_stay_in_a_history_and_drop_a_window_where_they_are_to_be_predicted() -> None:
    table = pa.table({"time": range(6), "x": [0.0, None, 2.0, 3.0, None, 5.0], "y": [1, 2, 3, 4, 5, 6]})
    assert _made(table, length=2, horizon=1, target="y")["x"].to_pylist() == [
        [0.0, None],
        [None, 2.0],
        [2.0, 3.0],
        [3.0, None],
    ]
    assert _made(table, length=2, horizon=1, target="x")["time"].to_pylist() == [1, 2, 4]
    # A window without any value says nothing.
    assert _made(table, length=1)["time"].to_pylist() == [0, 2, 3, 5]


def test_times_keep_their_type() -> None:
    times = pa.array([dt.datetime(2011, 1, 1, hour) for hour in range(4)], pa.timestamp("us"))
    found = _made(pa.table({"time": times, "x": [1, 2, 3, 4]}))
    assert found.schema.field("time").type == pa.timestamp("us")
    assert found["time"].to_pylist() == [dt.datetime(2011, 1, 1, 2), dt.datetime(2011, 1, 1, 3)]


_series = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(_series, st.randoms(), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(1, 3))
def test_windows_cover_every_series_and_cross_none(
    sizes: list[int],
    random: Random,
    length: int,
    least: int,
    horizon: int,
    stride: int,
) -> None:
    least = min(least, length)
    names = [name for name, size in enumerate(sizes) for _ in range(size)]
    random.shuffle(names)
    seen = [0] * len(sizes)
    rows = []
    for name in names:
        rows.append((f"s{name}", seen[name], 100.0 * name + seen[name]))
        seen[name] += 1
    columns: Sequence[Sequence[object]] = list(zip(*rows, strict=True))
    table = pa.table({"id": columns[0], "time": columns[1], "x": columns[2]})
    arguments: dict[str, Any] = {
        "series": "id",
        "length": length,
        "min_length": least,
        "horizon": horizon,
        "stride": stride,
    }
    arguments |= {"target": "x" if horizon else ""}
    found = _made(table, 3, **arguments)
    # What is made does not depend on how the rows are cut.
    assert found.equals(_made(table, 1000, **arguments))
    for name, size in enumerate(sizes):
        mine = found.filter(pc.equal(found["id"], f"s{name}")).to_pylist()
        ends = list(range(least - 1, size - horizon, stride))
        assert [row["time"] for row in mine] == ends
        for row, end in zip(mine, ends, strict=True):
            first = max(0, end - length + 1)
            assert row["x"] == [100.0 * name + place for place in range(first, end + 1)]
            if horizon:
                assert row["x_next"] == [100.0 * name + end + 1 + place for place in range(horizon)]


def test_pieces_of_a_batch_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_PIECE_VALUES", 20)
    table = _numbered(100)
    transform = Transform(Recipe((Step("windows", {**DEFAULTS, "length": 4}),)), table.schema)
    batches = list(transform.run(lambda: iter(table.to_batches())))
    assert max(batch.num_rows for batch in batches) <= 5
    assert sum(batch.num_rows for batch in batches) == 97


def test_last_rows_of_too_many_series_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_HELD_VALUES", 19)
    table = pa.table({"id": range(10), "time": [0] * 10, "x": [0.0] * 10})
    with pytest.raises(InvalidArgument, match="too many") as refused:
        _made(table, series="id")
    assert refused.value.reason == "TOO_MANY_SERIES"


@pytest.mark.parametrize("times", [[0, 1, 1, 2], [0, 2, 1, 3]])
@pytest.mark.parametrize("rows", [1, 4])
def test_rows_out_of_order_are_refused_by_their_place(times: list[int], rows: int) -> None:
    with pytest.raises(InvalidArgument, match=r"row 3 .*sort the rows") as refused:
        _made(pa.table({"time": times, "x": [0.0] * 4}), rows)
    assert refused.value.reason == "NOT_IN_ORDER"
    assert refused.value.metadata["row"] == "3"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"channels": ["town"]}, "UNSUITABLE_COLUMN"),
        ({"order": "town"}, "UNSUITABLE_COLUMN"),
        ({"target": "town", "horizon": 1}, "UNSUITABLE_COLUMN"),
        ({"channels": ["nope"]}, "UNKNOWN_COLUMN"),
        ({"series": "nope"}, "UNKNOWN_COLUMN"),
        ({"channels": []}, "BAD_RECIPE"),
        ({"length": 0}, "BAD_RECIPE"),
        ({"min_length": 4}, "BAD_RECIPE"),
        ({"horizon": 1}, "BAD_RECIPE"),
        ({"target": "x"}, "DUPLICATE_COLUMN"),
        ({"order": "gaps"}, "MISSING_VALUE"),
        ({"series": "gaps"}, "MISSING_VALUE"),
    ],
)
def test_bad_windows_are_refused(arguments: dict[str, Any], reason: str) -> None:
    table = pa.table({"time": [0, 1], "x": [0.0, 1.0], "town": ["a", "b"], "gaps": [None, 1]})
    with pytest.raises(InvalidArgument) as refused:
        _made(table, **arguments)
    assert refused.value.reason == reason


def test_label_after_is_what_is_to_be_predicted() -> None:
    schema = _numbered(1).schema
    for arguments, label in (({"horizon": 1, "target": "x"}, "x_next"), ({}, "")):
        assert Transform(Recipe((Step("windows", {**DEFAULTS, **arguments}),)), schema).label_after("time2") == label


def test_order_of_windows_is_that_of_the_rows_that_complete_them() -> None:
    table = pa.table({"id": [1, 2] * 5, "time": np.repeat(np.arange(5), 2), "x": np.arange(10.0)})
    times = _made(table, 7, series="id")["time"].to_pylist()
    assert all(first <= second for first, second in pairwise(times))
