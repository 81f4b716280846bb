"""Recipes do what pandas does, in the rows' order, and refuse what does not fit by the step's number."""

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.data.domain.profile import profile_table
from services.data.domain.transform import Transform
from services.data.domain.types import Recipe, Step

_rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-5, 5)),
        st.one_of(st.none(), st.sampled_from(["x", "y", "it's", '"'])),
        st.one_of(st.none(), st.floats(-10, 10)),
    ),
    min_size=1,
    max_size=30,
)


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    return pa.table(
        {
            "n": pa.array([row[0] for row in rows], pa.int64()),
            "a b": pa.array([row[1] for row in rows], pa.string()),
            "f": pa.array([row[2] for row in rows], pa.float64()),
        }
    )


def _run(table: pa.Table, *steps: tuple[str, dict[str, object]], part: int = 0) -> list[dict[str, object]]:
    transform = Transform(Recipe(tuple(Step(kind, arguments) for kind, arguments in steps)), table.schema)
    schema, batches = transform.run(table.to_reader, part)
    rows: list[dict[str, object]] = pa.Table.from_batches(list(batches), schema).to_pylist()
    return rows


def _plain(frame: pd.DataFrame) -> list[dict[str, object]]:
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


@settings(max_examples=40)
@given(_rows)
def test_steps_agree_with_pandas(rows: list[tuple[object, ...]]) -> None:
    table = _table(rows)
    frame = table.to_pandas()
    assert _run(table, ("drop_missing", {"columns": []})) == _plain(frame.dropna())
    assert _run(table, ("drop_missing", {"columns": ["n"]})) == _plain(frame.dropna(subset=["n"]))
    assert _run(table, ("drop_duplicates", {"columns": ["a b"]})) == _plain(frame.drop_duplicates(subset=["a b"]))
    filled = frame.fillna({"n": 3, "a b": "it's"})
    assert _run(table, ("fill_missing", {"values": {"n": "3", "a b": "it's"}})) == _plain(filled)
    kept = frame.query("n >= 1 and `a b` != 'x' or f < 0")
    # What is missing satisfies no comparison; pandas lets it satisfy `!=`.
    kept = kept[kept["a b"].notna() | (kept["f"] < 0)]
    assert _run(table, ("filter", {"expression": "n >= 1 and `a b` != 'x' or f < 0"})) == _plain(kept)


@settings(max_examples=20)
@given(_rows, st.integers(0, 5), st.sampled_from([0.2, 0.5]))
def test_split_is_exact_seeded_and_keeps_the_order(rows: list[tuple[object, ...]], seed: int, share: float) -> None:
    table = _table(rows).append_column("place", pa.array(range(len(rows)), pa.int64()))
    step = ("split", {"test_fraction": share, "seed": seed, "stratify": ""})
    train, test = _run(table, step), _run(table, step, part=1)
    assert abs(len(test) - len(rows) * share) <= 0.5
    places = [[int(str(row["place"])) for row in part] for part in (train, test)]
    assert sorted(places[0] + places[1]) == list(range(len(rows)))
    assert all(part == sorted(part) for part in places)
    assert _run(table, step, part=1) == test


def test_stratified_split_keeps_the_shares() -> None:
    table = pa.table({"y": ["a"] * 80 + ["b"] * 20})
    step = ("split", {"test_fraction": 0.25, "seed": 1, "stratify": "y"})
    test = [row["y"] for row in _run(table, step, part=1)]
    assert (test.count("a"), test.count("b")) == (20, 5)


def test_steps_follow_each_other() -> None:
    table = _table([(1, "x", 0.5), (None, "y", 1.5), (1, "x", 0.5)])
    found = _run(
        table,
        ("drop_columns", {"columns": ["f"]}),
        ("rename", {"names": {"n": "number"}}),
        ("cast", {"types": {"number": "double"}}),
        ("drop_duplicates", {"columns": []}),
    )
    assert found == [{"number": 1.0, "a b": "x"}, {"number": None, "a b": "y"}]


@pytest.mark.parametrize(
    ("steps", "reason", "text"),
    [
        ([("drop_columns", {"columns": ["zz"]})], "UNKNOWN_COLUMN", "step 1 (drop_columns): there is no column 'zz'"),
        ([("rename", {"names": {"n": "f"}})], "DUPLICATE_COLUMN", "step 1"),
        ([("drop_columns", {"columns": ["n", "a b", "f"]})], "BAD_RECIPE", "no column would be left"),
        ([("cast", {"types": {"n": "complex"}})], "UNKNOWN_TYPE", "expected one of"),
        ([("cast", {"types": {"a b": "int64"}})], "VALUE_DOES_NOT_CONVERT", "x"),
        ([("filter", {"expression": "n; drop table"})], "BAD_FILTER_EXPRESSION", "no expression"),
        ([("filter", {"expression": "__import__('os').system('x')"})], "BAD_FILTER_EXPRESSION", "no condition"),
        ([("filter", {"expression": "nope > 1"})], "BAD_FILTER_EXPRESSION", "no column 'nope'"),
        (
            [("split", {"test_fraction": 0.5, "seed": 0, "stratify": ""}), ("drop_missing", {"columns": []})],
            "BAD_RECIPE",
            "only last",
        ),
        ([], "EMPTY_RECIPE", "no steps"),
    ],
)
def test_step_that_does_not_fit_is_refused(steps: list[tuple[str, dict[str, object]]], reason: str, text: str) -> None:
    table = _table([(1, "x", 0.5), (2, None, 1.5)])
    with pytest.raises(InvalidArgument) as refusal:
        _run(table, *steps)
    assert refusal.value.reason == reason
    assert text in refusal.value.message


def test_profile_says_what_columns_hold() -> None:
    table = _table([(1, "x", 0.5), (3, "x", None), (None, "y", 2.5), (5, None, 3.0)])
    number, text, _ = profile_table(table.to_reader)
    assert (number.missing, number.distinct, number.minimum, number.maximum, number.mean) == (1, 3, 1.0, 5.0, 3.0)
    assert (text.missing, text.top) == (1, (("x", 2), ("y", 1)))
