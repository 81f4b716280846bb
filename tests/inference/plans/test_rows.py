"""Rows of a dataset as a graph's inputs."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.plans.rows import (
    Tensor,
    Unusable,
    even_places,
    held_out_places,
    read_places,
    read_table,
    synthetic,
    texts_of,
    tiled,
    to_groups,
)
from services.inference.plans.wire import BROKEN, LENGTH, frame
from services.training.domain.families.fitting import hold_out
from services.training.domain.families.frame import normalize
from services.training.domain.families.target import describe_target


def _framed(table: pa.Table, chunk_bytes: int = 100, batch_rows: int = 7) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    content = sink.getvalue()
    chunks = [content[start : start + chunk_bytes] for start in range(0, len(content), chunk_bytes)]
    return b"".join(frame(chunk) for chunk in chunks) + frame(b"")


@settings(deadline=None)
@given(
    st.integers(0, 1000),
    st.one_of(
        st.lists(st.sampled_from(["a", "b", "c"]), min_size=4, max_size=60),
        st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=60),
        st.lists(st.floats(-5, 5), min_size=4, max_size=60),
    ),
)
def test_held_out_rows_are_those_that_training_held_out(seed: int, values: list[str] | list[float]) -> None:
    table = pa.table({"row": range(len(values)), "y": values})
    try:
        target = describe_target(normalize(table), "y", classify=None)
    except Exception:
        # Not every column is a target: training would refuse it.
        return
    _, expected = hold_out(table, target, seed)
    labels = texts_of(normalize(table).column("y")) if target.classes else None
    assert held_out_places(len(values), seed, labels, target.classes).tolist() == expected.column("row").to_pylist()


@given(st.integers(1, 50), st.integers(1, 20), st.data())
def test_rows_at_places_are_read_from_a_stream(rows: int, batch_rows: int, data: st.DataObject) -> None:
    places = np.array(sorted(data.draw(st.sets(st.integers(0, rows - 1), min_size=1))))
    source = io.BytesIO(_framed(pa.table({"x": range(rows)}), batch_rows=batch_rows))
    assert read_places(source, places).column("x").to_pylist() == places.tolist()


def test_two_tables_follow_each_other() -> None:
    first, second = pa.table({"y": ["a", "b"] * 40}), pa.table({"x": range(80)})
    source = io.BytesIO(_framed(first) + _framed(second))
    assert read_table(source).equals(first)
    assert read_table(source).column("x").to_pylist() == list(range(80))


@pytest.mark.parametrize("end", [b"", LENGTH.pack(BROKEN), LENGTH.pack(500) + b"short"])
def test_stream_that_breaks_off_is_unusable(end: bytes) -> None:
    whole = _framed(pa.table({"x": range(100)}))
    with pytest.raises((Unusable, pa.ArrowInvalid, OSError)):
        read_table(io.BytesIO(whole[: 104 * 4] + end))


@given(st.integers(0, 5000), st.integers(1, 300))
def test_even_places_are_few_distinct_and_reach_both_ends(rows: int, most: int) -> None:
    places = even_places(rows, most).tolist()
    assert places == sorted(set(places))
    assert len(places) == min(rows, most) or not rows
    assert not rows or (places[0] == 0 and (places[-1] == rows - 1 or most == 1))


def test_columns_become_inputs() -> None:
    table = pa.table(
        {
            "n": [1, 2, None],
            "s": ["a", None, "c"],
            "image": [[[1.0, 2.0], [3.0, 4.0]]] * 3,
            "flag": [True, False, True],
            "unused": [0, 0, 0],
        }
    )
    [group] = to_groups(
        table,
        [
            Tensor("n", "FP64", (-1, 1)),
            Tensor("s", "BYTES", (-1, 1)),
            Tensor("image", "FP32", (-1, 1, 2, 2)),
            Tensor("flag", "BOOL", (-1,)),
        ],
    )
    assert group.feed["n"].shape == (3, 1)
    assert np.isnan(group.feed["n"][2, 0])
    assert group.feed["s"].tolist() == [["a"], [""], ["c"]]
    assert (group.feed["image"].shape, group.feed["image"].dtype) == ((3, 1, 2, 2), np.dtype(np.float32))
    assert group.feed["flag"].tolist() == [True, False, True]


def test_inputs_of_many_values_are_spread_over_columns_or_spelled_in_json() -> None:
    # Datasets hold no lists.
    table = pa.table({"x_0": [1.0, 2.0], "x_1": [3.0, 4.0], "ids": ["[1, 2]", "[3, 4]"]})
    [group] = to_groups(table, [Tensor("x", "FP32", (-1, 2, 1)), Tensor("ids", "INT64", (-1, -1))])
    assert group.feed["x"].tolist() == [[[1.0], [3.0]], [[2.0], [4.0]]]
    assert group.feed["ids"].tolist() == [[1, 2], [3, 4]]


def test_sequences_are_grouped_by_their_length() -> None:
    table = pa.table({"ids": [[1, 2], [3], [4, 5]]})
    groups = to_groups(table, [Tensor("ids", "INT64", (-1, -1))])
    assert [(group.places.tolist(), group.feed["ids"].tolist()) for group in groups] == [
        ([0, 2], [[1, 2], [4, 5]]),
        ([1], [[3]]),
    ]


@pytest.mark.parametrize(
    ("values", "tensor", "message"),
    [
        ([1.0], Tensor("absent", "FP32", (-1, 1)), "no column 'absent'"),
        (["a"], Tensor("x", "FP32", (-1, 1)), "holds texts"),
        ([1.5], Tensor("x", "INT64", (-1, 1)), "holds double"),
        ([None, 1], Tensor("x", "INT64", (-1, 1)), "lacks a value in 1 rows"),
        ([1.0], Tensor("x", "FP32", (-1, 4)), "one value a row"),
        ([[1.0, 2.0, 3.0]], Tensor("x", "FP32", (-1, 2, 2)), "does not fill"),
    ],
)
def test_column_that_does_not_fit_is_told_by_name(values: list[object], tensor: Tensor, message: str) -> None:
    with pytest.raises(Unusable, match=message):
        to_groups(pa.table({"x": values}), [tensor])


def test_made_up_rows_stay_within_the_tables_that_they_look_up() -> None:
    inputs = [Tensor("ids", "INT64", (-1, -1)), Tensor("mask", "INT64", (-1, -1)), Tensor("x", "FP32", (-1, 4))]
    feed = synthetic(inputs, {"ids": 10}, 16)
    assert feed["ids"].shape == (8, 16)
    assert feed["ids"].max() < 10
    assert (feed["mask"] == 1).all()
    assert feed["x"].std() > 0
    assert tiled(feed, 3)["x"].shape == (3, 4)
    assert np.array_equal(tiled(feed, 17)["x"][16], feed["x"][0])
