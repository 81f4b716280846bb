"""A column of a frame is read by strict rules, whatever its dtype; a refusal names row and column."""

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lepton import errors, served_frames
from lepton.open_inference import build_request, column_values
from lepton.typed_rows import to_row
from lepton.v1 import common_pb2

_DATATYPES = ("BOOL", "INT8", "INT32", "INT64", "UINT8", "UINT32", "FP32", "FP64")


def _read(column: "pd.Series[Any]", datatype: str, is_boolean: bool) -> "np.ndarray[Any, Any] | None":
    kind = common_pb2.COLUMN_KIND_BOOLEAN if is_boolean else common_pb2.COLUMN_KIND_NUMERIC
    try:
        return column_values(column, common_pb2.TensorSpec(name="c", datatype=datatype, kind=kind))
    except errors.InvalidArgument:
        return None


@pytest.mark.parametrize("datatype", _DATATYPES)
@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, 2]),
        pd.Series([1.0, 2.0]),
        pd.Series([1.9, 2.0]),
        pd.Series([1.0, np.nan]),
        pd.Series([True, False]),
        pd.Series([1, 300], dtype="int16"),
        pd.Series([0, 2**63], dtype="uint64"),
        pd.Series([1, None], dtype="Int64"),
        pd.Series([1, 2], dtype="Int8"),
        pd.Series([1.5, None], dtype="Float64"),
        pd.Series([True, None], dtype="boolean"),
        pd.Series([True, False], dtype="bool[pyarrow]"),
        pd.Series([1, 2], dtype="int64[pyarrow]"),
        pd.Series(["1", "2"]),
        pd.Series(["1", "2"], dtype="string[pyarrow]"),
        pd.Series([1, 2, 1], dtype="category"),
        pd.Series([1, 0, 0], dtype="Sparse[int64]"),
        pd.Series(pd.to_datetime(["2020-01-01"])),
        pd.Series([1 + 2j]),
        pd.Series([], dtype="int64"),
    ],
    ids=lambda column: f"{column.dtype}-{len(column)}",
)
def test_every_dtype_is_read_as_its_values(column: "pd.Series[Any]", datatype: str) -> None:
    for is_boolean in (False, True):
        if is_boolean and not datatype.startswith(("FP", "BOOL")):
            continue
        found = _read(column, datatype, is_boolean)
        expected = _read(pd.Series(list(column), dtype=object), datatype, is_boolean)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("items", "datatype", "message"),
    [
        ([1, 1.9], "INT64", "row 1, column 'c': expected a whole number, got a fraction"),
        ([1], "BOOL", "expected a truth value, got a whole number$"),
        ([0.5], "BOOL", "expected a truth value, got a number$"),
        ([math.inf], "INT64", "got an infinity"),
        (["False"], "BOOL", "row 0, column 'c': expected a truth value, got a text"),
        ([None], "BOOL", "expected a truth value, got a missing value"),
        (["1_000"], "INT64", "expected a whole number, got a text"),
        ([300, 301], "UINT8", r"expected a whole number from 0 to 255, got a whole number out of range \(and 1 more\)"),
        ([True], "FP64", "expected a number, got a truth value"),
        ([1j], "FP64", "expected a number, got a complex"),
    ],
)
def test_refusal_names_row_and_column_and_no_value(items: list[Any], datatype: str, message: str) -> None:
    spec = common_pb2.TensorSpec(name="c", datatype=datatype)
    with pytest.raises(errors.InvalidArgument, match=message) as refused:
        column_values(pd.Series(items, dtype=object), spec)
    assert refused.value.reason == "BAD_ROW"
    assert refused.value.violations
    with pytest.raises(errors.InvalidArgument, match="row 7"):
        column_values(pd.Series([items[-1]], dtype=object), spec, 7)


def test_whole_numbers_and_decimals_are_exact() -> None:
    ids = [2**62 + 1, -(2**63), 2**63 - 1]
    for column in (pd.Series(ids), pd.Series(ids, dtype="Int64"), pd.Series(ids, dtype=object)):
        assert column_values(column, common_pb2.TensorSpec(name="c", datatype="INT64")).ravel().tolist() == ids
    large = pd.Series([2**64 - 1], dtype="uint64")
    assert column_values(large, common_pb2.TensorSpec(name="c", datatype="UINT64")).item() == 2**64 - 1
    halves = pd.Series([Decimal("0.5"), Decimal(2)], dtype=object)
    assert column_values(halves, common_pb2.TensorSpec(name="c", datatype="FP64")).ravel().tolist() == [0.5, 2.0]


@pytest.mark.parametrize("item", [["1"], [True], [[1.0]], "12", 3.0, None, np.array([[1.0]]), [1j]])
def test_series_holds_numbers_alone(item: Any) -> None:
    spec = common_pb2.TensorSpec(name="c", datatype="FP64", kind=common_pb2.COLUMN_KIND_SERIES)
    with pytest.raises(errors.InvalidArgument, match="row 1, column 'c'"):
        column_values(pd.Series([[1.0], item], dtype=object), spec)
    series = pd.Series([[1, None, Decimal("0.5")], np.array([1.5])], dtype=object)
    np.testing.assert_array_equal(column_values(series, spec), [[1, np.nan, 0.5], [1.5, np.nan, np.nan]])


def test_lone_surrogate_is_refused_by_its_column() -> None:
    spec = common_pb2.TensorSpec(name="c", datatype="BYTES")
    with pytest.raises(errors.InvalidArgument, match="column 'c' holds a text with a lone surrogate"):
        build_request("m", "", [(spec, np.array([["\ud800"]], dtype=object))])
    with pytest.raises(errors.InvalidArgument, match="column 'c' holds a text with a lone surrogate"):
        to_row({"c": "\ud800"})


def test_columns_are_checked_before_rows_are_read() -> None:
    signature = common_pb2.Signature(inputs=[common_pb2.TensorSpec(name="0"), common_pb2.TensorSpec(name="b")])
    with pytest.raises(errors.InvalidArgument, match="column 'b' more than once"):
        served_frames.with_names(pd.DataFrame([[1, 2, 3]], columns=["0", "b", "b"]), signature)
    with pytest.raises(errors.WrongType, match="predict takes a DataFrame, got a list"):
        served_frames.with_names([{"b": 1}], signature)
    twice_unread = pd.DataFrame([[1, 2, 3, 4]], columns=[0, "b", "c", "c"])
    named = served_frames.with_names(twice_unread, signature)
    assert list(named.columns) == ["0", "b", "c", "c"]
    assert list(twice_unread.columns) == [0, "b", "c", "c"]
    served_frames.check_columns(named, signature, "m@1")
    with pytest.raises(KeyError, match="not in the data: model m@1 needs them"):
        served_frames.check_columns(named[["b"]], signature, "m@1")
    with pytest.raises(errors.InvalidArgument, match="row 5, column 'image'"):
        served_frames.decoded_images([3], "image", 5)
