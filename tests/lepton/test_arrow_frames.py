"""Frames travel to Arrow and back with the same values; what cannot travel is refused by its column."""

import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton import errors
from lepton.arrow_frames import to_frame, to_table

_IDS = [1111111111111111111, 1111111111111111112, None]


@pytest.mark.parametrize(
    ("kind", "values", "dtype"),
    [
        (pa.int64(), _IDS, "Int64"),
        (pa.int8(), [1, None], "Int8"),
        (pa.uint64(), [2**64 - 1, None], "UInt64"),
        (pa.bool_(), [True, None, False], "boolean"),
        (pa.int64(), [None, None], "Int64"),
        (pa.int64(), [1, 2], "int64"),
        (pa.bool_(), [True], "bool"),
        (pa.float64(), [1.5, None], "float64"),
    ],
)
def test_missing_values_do_not_change_the_others(kind: pa.DataType, values: list[Any], dtype: str) -> None:
    frame = to_frame(pa.table({"before": [1.0] * len(values), "c": pa.array(values, kind)}))
    assert str(frame["c"].dtype) == dtype
    assert [None if pd.isna(value) else value for value in frame["c"]] == values
    assert to_table(frame)["c"].to_pylist() == values
    kept = to_table(frame.dropna())["c"]
    assert kept.to_pylist() == [value for value in values if value is not None]


numbers = st.integers(-(2**63), 2**63 - 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.none() | numbers, min_size=1), st.lists(st.none() | st.booleans(), min_size=1))
def test_integers_and_booleans_come_back_as_they_went(integers: list[int | None], booleans: list[bool | None]) -> None:
    rows = min(len(integers), len(booleans))
    table = pa.table({"i": pa.array(integers[:rows], pa.int64()), "b": pa.array(booleans[:rows], pa.bool_())})
    assert to_table(to_frame(table)).to_pydict() == table.to_pydict()


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pd.Series([1, 0, 0], dtype="Sparse[int64]"), [1, 0, 0]),
        (pd.Series(["a", "b"]).astype(pd.SparseDtype("object", "a")), ["a", "b"]),
        (pd.Series([3, 4, 3], dtype="category"), [3, 4, 3]),
        (pd.Series([2**62 + 1, None, 4], dtype="Int64").astype("category"), [2**62 + 1, None, 4]),
        (pd.Series(["a", None], dtype="category"), ["a", None]),
        (pd.cut(pd.Series([1, 2]), [0, 1, 2]), ["(0, 1]", "(1, 2]"]),
        (pd.Series([Decimal("1.5"), Decimal(2)], dtype=object), [Decimal("1.5"), Decimal("2.0")]),
        (pd.Series([2**64 - 1, 1, None], dtype=object), [2**64 - 1, 1, None]),
        (pd.Series([2**70, 1, None], dtype=object), [str(2**70), "1", None]),
        (pd.Series([2**62 + 1, None], dtype=object), [2**62 + 1, None]),
        (pd.Series([1, 0.5], dtype=object), [1.0, 0.5]),
        (pd.Series([True, None], dtype=object), [True, None]),
        (pd.Series([np.bool_(True), True], dtype=object), [True, True]),
        (pd.Series(["a", np.nan, pd.NA], dtype=object), ["a", None, None]),
        (pd.Series([[1.5], np.array([2.0, 3.0]), None], dtype=object), [[1.5], [2.0, 3.0], None]),
        (pd.Series([datetime.date(2020, 1, 1), None], dtype=object), [datetime.date(2020, 1, 1), None]),
        (pd.Series([1.5], dtype="float32"), [1.5]),
        (pd.Series(["x"], dtype="string"), ["x"]),
        (pd.Series(["x"], dtype="string[pyarrow]"), ["x"]),
        (pd.Series([], dtype="int64"), []),
        (pd.Series([None, None], dtype=object), [None, None]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_column_keeps_its_values(column: "pd.Series[Any]", expected: list[Any]) -> None:
    assert to_table(pd.DataFrame({"c": column}))["c"].to_pylist() == expected


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pd.Series([1, "a"], dtype=object), r"several types \(int in row 0, str in row 1\)"),
        (pd.Series([1.5, True], dtype=object), r"several types \(float in row 0, bool in row 1\)"),
        (pd.Series([1, True], dtype=object), r"several types \(int in row 0, bool in row 1\)"),
        (pd.Series([1, "a"], dtype="category"), "several types"),
        (pd.Series([2**53 + 1, 0.5], dtype=object), "which floats round"),
        (pd.Series([{1}, {2}], dtype=object), "values of the type set"),
        (pd.Series([Fraction(1, 2)], dtype=object), "values of the type Fraction"),
        (pd.Series([object()], dtype=object), "values of the type object"),
        (pd.Series([[1], "a"], dtype=object), "several types"),
        (pd.Series([[1], ["a"]], dtype=object), "that Arrow does not take"),
        (pd.Series([1j]), "real and imaginary"),
        (pd.Series(np.array([1], dtype="longdouble")), "float64"),
        (pd.Series(pd.period_range("2020", periods=1, freq="M")), "to_timestamp"),
        (pd.Series(pd.interval_range(0, 1)), "astype"),
        (pd.Series(["a", "\ud800"], dtype=object), "a lone surrogate in row 1"),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_what_a_dataset_does_not_have_is_refused_by_its_column(column: "pd.Series[Any]", message: str) -> None:
    with pytest.raises(errors.InvalidArgument, match=message) as refused:
        to_table(pd.DataFrame({"fine": [1] * len(column), "c": column}))
    assert refused.value.reason == "BAD_COLUMN"
    assert refused.value.message.startswith("column 'c' holds ")


def test_names_of_columns_are_checked() -> None:
    assert to_table(pd.DataFrame([[1, 2]])).column_names == ["0", "1"]
    for columns, message in (
        (["a", "a"], "column 'a' more than once"),
        ([1, "1"], "column '1' more than once"),
        (pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")]), "several levels"),
        (pd.Index(["a", "\ud800"], dtype=object), "column number 2 holds a lone surrogate"),
    ):
        frame = pd.DataFrame([[1, 2]])
        frame.columns = columns if isinstance(columns, pd.Index) else pd.Index(columns)
        with pytest.raises(errors.InvalidArgument, match=message):
            to_table(frame)
    for other in ([1], pd.Series([1]), np.zeros((1, 1))):
        with pytest.raises(errors.WrongType, match="expected a DataFrame"):
            to_table(other)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgument, match="no columns"):
        to_table(pd.DataFrame(index=[1, 2]))


def test_ids_that_floats_rounded_already_are_warned_of() -> None:
    with pytest.warns(errors.DataWarning, match="column 'c' holds whole numbers beyond"):
        to_table(pd.DataFrame({"c": [1.111111111111111e18, np.nan]}))
    to_table(pd.DataFrame({"c": [2.0**40, 0.5], "d": [1e300, 1e200], "e": [2.0**60, 0.5], "f": [np.nan, np.nan]}))
