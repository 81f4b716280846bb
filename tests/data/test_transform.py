"""Recipes do what pandas does, in the rows' order, and refuse what does not fit by the step's number."""

import datetime as dt
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.errors import InvalidArgument
from services.data.domain.draws import drawn, shares
from services.data.domain.duplicates import first_rows, row_hashes
from services.data.domain.transform import Transform
from services.data.domain.types import Recipe, Step

Given = tuple[str, dict[str, object]]
Rows = list[tuple[object, ...]]

_rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-5, 5)),
        st.one_of(st.none(), st.sampled_from(["x", "y", "it's", '"', ""])),
        st.one_of(st.none(), st.floats(-10, 10), st.sampled_from([0.0, -0.0])),
        st.one_of(st.none(), st.booleans()),
    ),
    min_size=1,
    max_size=30,
)


def _table(rows: Rows) -> pa.Table:
    kinds = (pa.int64(), pa.string(), pa.float64(), pa.bool_())
    columns = [pa.array([row[index] for row in rows], kind) for index, kind in enumerate(kinds)]
    # The second column differs from the first by case alone, and would confuse what holds no case.
    return pa.table(columns, names=["n", "a b", "N", "flag"])


def _apply(table: pa.Table, *steps: Given, part: int = 0) -> pa.Table:
    transform = Transform(Recipe(tuple(Step(kind, arguments) for kind, arguments in steps)), table.schema)
    # Batches of two rows: what a step remembers must go from one to the next.
    batches = list(transform.run(lambda: iter(table.to_batches(max_chunksize=2)), part))
    return pa.Table.from_batches(batches, transform.schema)


def _run(table: pa.Table, *steps: Given, part: int = 0) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = _apply(table, *steps, part=part).to_pylist()
    return rows


def _plain(frame: pd.DataFrame) -> list[dict[str, object]]:
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


@settings(max_examples=60)
@given(_rows)
def test_steps_agree_with_pandas(rows: Rows) -> None:
    table = _table(rows)
    frame = table.to_pandas()
    assert _run(table, ("drop_missing", {"columns": []})) == _plain(frame.dropna())
    assert _run(table, ("drop_missing", {"columns": ["n"]})) == _plain(frame.dropna(subset=["n"]))
    assert _run(table, ("drop_duplicates", {"columns": []})) == _plain(frame.drop_duplicates())
    assert _run(table, ("drop_duplicates", {"columns": ["a b"]})) == _plain(frame.drop_duplicates(subset=["a b"]))
    assert _run(table, ("drop_duplicates", {"columns": ["N", "n"]})) == _plain(frame.drop_duplicates(subset=["N", "n"]))
    filled = frame.fillna({"n": 3, "a b": "it's"})
    assert _run(table, ("fill_missing", {"values": {"n": "3", "a b": "it's"}})) == _plain(filled)


_EXPRESSIONS = [
    "n >= 1 and `a b` != 'x' or N < 0",
    "not (n > 1) and N == N",
    "~(n == 2) & (N != 0) | n in [1, 2.0, -3]",
    "`a b` in ['x', \"it's\"] or n not in (1,)",
    "-2 <= n < 3",
    "2 * n - N / 2 + 1 > -n",
    "n.isna() or `a b`.notna() and n != -5",
    "`a b` == '`' or `a b` > \"it's\"",
    "n / 2 == 0.5",
    "n > 0 & flag | N < 1 & `a b` != 'x|&'",
]


@settings(max_examples=40)
@given(_rows, st.sampled_from(_EXPRESSIONS))
def test_filter_agrees_with_pandas(rows: Rows, expression: str) -> None:
    # Pandas reads a column of nothing but None as one of objects.
    table = _table([*rows, (1, "x", 1.5, True)])
    frame = table.to_pandas()
    expected = frame[frame.eval(expression, engine="python").astype(bool)]
    assert _run(table, ("filter", {"expression": expression})) == _plain(expected)


def test_filter_understands_truth_and_time() -> None:
    start = dt.datetime(2024, 1, 1, 12)
    table = pa.table(
        {
            "at": pa.array([start, start + dt.timedelta(days=1), None], pa.timestamp("us")),
            "zoned": pa.array([start, start + dt.timedelta(days=1), None], pa.timestamp("ms", "Europe/Paris")),
            "day": pa.array([start.date(), None, start.date()], pa.date32()),
            "class": [True, False, None],
        }
    )

    def count(expression: str) -> int:
        return len(_run(table, ("filter", {"expression": expression})))

    assert count("at > '2024-01-01 12:00:00'") == count("'2024-01-02' <= at") == 1
    assert count("zoned == '2024-01-01 12:00:00'") == 1
    assert count("day == '2024-01-01'") == 2
    assert count("day in ['2024-01-01', '2024-01-02']") == 2
    assert count("`class`") == count("`class` == True") == count("not `class` != True") == 1
    assert count("not `class`") == 2


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("n; drop table", "no expression"),
        ("n = 1", "no expression"),
        ("", "no expression"),
        ("__import__('os').system('x')", "only calls"),
        ("n.__class__ == 1", "neither a column nor a constant"),
        ("[x for x in n]", "no condition"),
        ("(lambda: 1)() == n", "neither"),
        ("n[0] == 1", "neither"),
        ("nope > 1", "no column 'nope'"),
        ("`no pe` > 1", "no column 'no pe'"),
        ("n", "no truth values"),
        ("1 == 1", "needs a column"),
        ("n > 'x'", "cannot be compared"),
        ("`a b` > 1", "cannot be compared"),
        ("flag > True", "neither is greater"),
        ("flag == 1", "cannot be compared"),
        ("n == None", "no constant"),
        ("n == 1j", "no constant"),
        ("N < 1e999", "no constant"),
        ("n in []", "list of constants"),
        ("n in [n]", "list of constants"),
        ("`a b` + 'x' == 'y'", "no number"),
        ("n is 1", "only =="),
        ("n ** 2 > 1", "neither"),
        ("(" * 500 + "n == 1" + ")" * 500, "no"),
        ("not " * 900 + "flag", "deep"),
        ("n == " + "-" * 3000 + "1", "deep"),
    ],
)
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_filter_that_cannot_be_read_is_refused(expression: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"step 1 \(filter\)") as refusal:
        _run(_table([(1, "x", 0.5, True)]), ("filter", {"expression": expression}))
    assert refusal.value.reason == "BAD_FILTER_EXPRESSION"
    assert text in refusal.value.message


@settings(max_examples=30)
@given(_rows, st.integers(-(2**63), 2**63 - 1), st.sampled_from([0.2, 0.5]))
def test_split_is_exact_seeded_and_keeps_the_order(rows: Rows, seed: int, share: float) -> None:
    table = pa.concat_tables([_table(rows), _table(rows), _table(rows)])
    table = table.append_column("place", pa.array(range(len(table)), pa.int64()))
    step = ("split", {"test_fraction": share, "seed": seed, "stratify": ""})
    train, test = _run(table, step), _run(table, step, part=1)
    assert len(test) == int(len(table) * share + 0.5)
    places = [[int(str(row["place"])) for row in part] for part in (train, test)]
    assert sorted(places[0] + places[1]) == list(range(len(table)))
    assert all(part == sorted(part) for part in places)
    assert _run(table, step, part=1) == test


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["a", "b", None]), min_size=10, max_size=200), st.integers(0, 9))
def test_stratified_split_keeps_the_shares(values: list[str | None], seed: int) -> None:
    table = pa.table({"y": pa.array(values, pa.string()), "place": range(len(values))})
    step = ("split", {"test_fraction": 0.25, "seed": seed, "stratify": "y"})
    train, test = _run(table, step), _run(table, step, part=1)
    assert len(test) == int(len(values) * 0.25 + 0.5)
    assert sorted(int(str(row["place"])) for row in train + test) == list(range(len(values)))
    drawn_of = Counter(row["y"] for row in test)
    assert all(abs(drawn_of[value] - count * 0.25) < 1 for value, count in Counter(values).items())


def test_another_seed_draws_other_rows_and_each_as_often() -> None:
    table = pa.table({"place": range(20)})
    found: Counter[object] = Counter()
    for seed in range(600):
        step: Given = ("sample", {"rows": 5, "fraction": 0.0, "seed": seed})
        rows = [row["place"] for row in _run(table, step)]
        assert len(rows) == 5
        found.update(rows)
    # 150 are expected of each, give or take 10.6.
    assert all(90 < found[place] < 210 for place in range(20))


def test_sample_takes_a_share_and_no_more_than_there_is() -> None:
    table = pa.table({"place": range(20)})
    assert len(_run(table, ("sample", {"rows": 0, "fraction": 0.25, "seed": 1}))) == 5
    assert len(_run(table, ("sample", {"rows": 99, "fraction": 0.0, "seed": 1}))) == 20


@given(st.integers(1, 300), st.integers(0, 300), st.integers(-5, 5))
def test_draw_is_exact(size: int, wanted: int, seed: int) -> None:
    places = np.arange(size, dtype=np.uint64)
    sizes, wants = np.full_like(places, size), np.full_like(places, wanted)
    assert int(drawn(places, sizes, wants, seed).sum()) == min(size, wanted)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_shares_add_up(counts: list[int], fraction: float) -> None:
    found = shares(np.array(counts), fraction)
    assert int(found.sum()) == int(np.floor(sum(counts) * fraction + 0.5))
    assert all(abs(share - count * fraction) < 1 for share, count in zip(found, counts, strict=True))


@settings(max_examples=40, deadline=None)
@given(_rows, st.sampled_from([4, 1000]))
def test_repeated_rows_are_found_in_several_passes(rows: Rows, held: int) -> None:
    table = _table(rows)
    masks = first_rows(lambda: iter(table.to_batches(max_chunksize=3)), held)
    assert np.concatenate(masks).tolist() == (~table.to_pandas().duplicated()).tolist()


def test_hashes_tell_columns_and_values_apart() -> None:
    rows = [("ab", "c"), ("a", "bc"), ("", "abc"), (None, "abc"), ("abc", ""), ("abc", None), ("c", "ab")]
    batch = pa.table({"a": [row[0] for row in rows], "b": [row[1] for row in rows]}).to_batches()[0]
    for lane in (0, 1):
        assert len(set(row_hashes(batch, lane).tolist())) == len(rows)


def test_steps_follow_each_other() -> None:
    table = _table([(1, "x", 0.5, True), (None, "y", 1.5, None), (1, "x", 0.5, True)])
    found = _run(
        table,
        ("drop_columns", {"columns": ["N", "flag"]}),
        ("rename", {"names": {"n": "a b", "a b": "n"}}),
        ("cast", {"types": {"a b": "double"}}),
        ("drop_duplicates", {"columns": []}),
        ("filter", {"expression": "n == 'x'"}),
    )
    assert found == [{"a b": 1.0, "n": "x"}]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pa.array([1, None]), "double", [1.0, None]),
        (pa.array([1.0, 2.0]), "int8", [1, 2]),
        (pa.array([" 7 ", None]), "int64", [7, None]),
        (pa.array(["1e3", "nan"]), "float64", [1000.0, None]),
        (pa.array(["true", "0"]), "bool", [True, False]),
        (pa.array([1, 0]), "bool", [True, False]),
        (pa.array([True, None]), "string", ["true", None]),
        (pa.array([True, False]), "int64", [1, 0]),
        (pa.array(["2024-02-29"]), "date32[day]", [dt.date(2024, 2, 29)]),
        (pa.array(["2024-02-29 10:00:00"]), "timestamp[us]", [dt.datetime(2024, 2, 29, 10)]),
    ],
)
def test_cast_keeps_the_value(values: pa.Array, kind: str, expected: list[object]) -> None:
    found = _apply(pa.table({"x": values}), ("cast", {"types": {"x": kind}}))
    assert found.column("x").to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (pa.array([1.5]), "int64", "VALUE_DOES_NOT_CONVERT"),
        (pa.array([300]), "int8", "VALUE_DOES_NOT_CONVERT"),
        (pa.array([-1]), "uint64", "VALUE_DOES_NOT_CONVERT"),
        (pa.array([2**60 + 1]), "double", "VALUE_DOES_NOT_CONVERT"),
        (pa.array([1e300]), "float", "VALUE_DOES_NOT_CONVERT"),
        (pa.array(["1.5"]), "int64", "VALUE_DOES_NOT_CONVERT"),
        (pa.array(["0x1F"]), "int64", "VALUE_DOES_NOT_CONVERT"),
        (pa.array(["inf"]), "double", "VALUE_DOES_NOT_CONVERT"),
        (pa.array([2]), "bool", "VALUE_DOES_NOT_CONVERT"),
        (pa.array(["x"]), "timestamp[us]", "VALUE_DOES_NOT_CONVERT"),
        (pa.array([True]), "timestamp[us]", "BAD_CAST"),
        (pa.array([1]), "complex", "UNKNOWN_TYPE"),
        (pa.array([1]), "binary", "UNKNOWN_TYPE"),
        (pa.array([1]), "null", "UNKNOWN_TYPE"),
    ],
)
def test_value_that_does_not_convert_exactly_is_refused(values: pa.Array, kind: str, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=r"step 1 \(cast\)") as refusal:
        _apply(pa.table({"x": values}), ("cast", {"types": {"x": kind}}))
    assert refusal.value.reason == reason


@pytest.mark.parametrize(
    ("steps", "reason", "text"),
    [
        ([("drop_columns", {"columns": ["zz"]})], "UNKNOWN_COLUMN", "step 1 (drop_columns): there is no column 'zz'"),
        ([("drop_missing", {"columns": ["zz"]})], "UNKNOWN_COLUMN", "step 1 (drop_missing)"),
        ([("rename", {"names": {"n": "N"}})], "DUPLICATE_COLUMN", "step 1"),
        ([("rename", {"names": {"n": " "}})], "EMPTY_COLUMN_NAME", "step 1"),
        ([("rename", {"names": {}})], "BAD_RECIPE", "names no column"),
        ([("drop_columns", {"columns": ["n", "a b", "N", "flag"]})], "BAD_RECIPE", "no column would be left"),
        ([("fill_missing", {"values": {"n": "x"}})], "VALUE_DOES_NOT_CONVERT", "step 1 (fill_missing)"),
        ([("fill_missing", {"values": {"n": "1.5"}})], "VALUE_DOES_NOT_CONVERT", "step 1 (fill_missing)"),
        ([("fill_missing", {"values": {"N": "nan"}})], "VALUE_DOES_NOT_CONVERT", "fills nothing"),
        ([("fill_missing", {"values": {"N": "inf"}})], "VALUE_DOES_NOT_CONVERT", "infinity"),
        (
            [("drop_missing", {"columns": []}), ("cast", {"types": {"a b": "int64"}})],
            "VALUE_DOES_NOT_CONVERT",
            "step 2",
        ),
        ([("filter", {"expression": "n * 9000000000000000000 > 1"})], "VALUE_DOES_NOT_CONVERT", "step 1 (filter)"),
        (
            [("cast", {"types": {"a b": "int64"}}), ("drop_duplicates", {"columns": []})],
            "VALUE_DOES_NOT_CONVERT",
            "step 1 (cast)",
        ),
        (
            [("split", {"test_fraction": 0.5, "seed": 0, "stratify": ""}), ("drop_missing", {"columns": []})],
            "BAD_RECIPE",
            "step 1 (split): a split may stand only last",
        ),
        ([("split", {"test_fraction": 1.0, "seed": 0, "stratify": ""})], "BAD_RECIPE", "between 0 and 1"),
        ([("split", {"test_fraction": 0.01, "seed": 0, "stratify": ""})], "EMPTY_PART", "one part none"),
        ([("split", {"test_fraction": 0.5, "seed": 0, "stratify": "zz"})], "UNKNOWN_COLUMN", "zz"),
        ([("sample", {"rows": 0, "fraction": 0.0, "seed": 0})], "BAD_RECIPE", "needs rows"),
        ([], "EMPTY_RECIPE", "no steps"),
    ],
)
def test_step_that_does_not_fit_is_refused(steps: list[Given], reason: str, text: str) -> None:
    table = _table([(2, "x", 0.5, True), (3, None, 1.5, False)])
    with pytest.raises(InvalidArgument) as refusal:
        _run(table, *steps)
    assert refusal.value.reason == reason
    assert text in refusal.value.message


def test_filling_reads_a_value_as_python_writes_it() -> None:
    table = _table([(None, None, None, None)])
    values = {"n": "3.0", "a b": "", "N": "1", "flag": "True"}
    assert _run(table, ("fill_missing", {"values": values})) == [{"n": 3, "a b": "", "N": 1.0, "flag": True}]


def test_label_follows_its_column() -> None:
    def label(*steps: Given) -> str:
        transform = Transform(Recipe(tuple(Step(kind, arguments) for kind, arguments in steps)), _table([]).schema)
        return transform.label_after("n")

    assert label(("drop_missing", {"columns": []})) == "n"
    assert label(("rename", {"names": {"n": "x"}}), ("rename", {"names": {"x": "y", "N": "n"}})) == "y"
    assert label(("drop_columns", {"columns": ["n"]}), ("rename", {"names": {"N": "m"}})) == ""
