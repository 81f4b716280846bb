"""Columns of a DataFrame follow the model's types: texts stay as they are, dates become microseconds."""

from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton import errors
from lepton.open_inference import column_values
from lepton.typed_rows import to_row
from lepton.v1 import common_pb2
from services.inference.predict.moments import microseconds as platform_microseconds

TEXT = common_pb2.TensorSpec(name="c", datatype="BYTES", kind=common_pb2.COLUMN_KIND_CATEGORICAL)
DATE = common_pb2.TensorSpec(name="d", datatype="INT64", kind=common_pb2.COLUMN_KIND_TEMPORAL)
DATE_OR_NONE = common_pb2.TensorSpec(name="d", datatype="FP64", kind=common_pb2.COLUMN_KIND_TEMPORAL, nullable=True)
NUMBER = common_pb2.TensorSpec(name="n", datatype="FP64", kind=common_pb2.COLUMN_KIND_NUMERIC)
DAY = 86_400_000_000


@pytest.mark.parametrize("text", ["007", " 5", "1.50", "1e5", "True", "", "北京", "2020-01-01"])
def test_texts_stay_exactly_the_texts(text: str) -> None:
    assert column_values(pd.Series([text], dtype=object), TEXT).tolist() == [[text]]


def test_whole_numbers_have_one_spelling_and_missing_is_the_empty_text() -> None:
    column = pd.Series([12, None, np.int64(-3), "x"], dtype=object)
    assert column_values(column, TEXT)[:, 0].tolist() == ["12", "", "-3", "x"]
    assert column_values(pd.Series([1, None], dtype="Int64"), TEXT)[:, 0].tolist() == ["1", ""]


@pytest.mark.parametrize("written", ["007", "+7", " 7", "7 "])
def test_whole_number_that_training_wrote_otherwise_is_refused(written: str) -> None:
    codes = common_pb2.TensorSpec(name="c", datatype="BYTES", categories=["7", "8", written, "A7"])
    with pytest.raises(errors.InvalidArgument, match=r"row 1 .*dtype=str"):
        column_values(pd.Series([8, 7]), codes)
    assert column_values(pd.Series([8, 9]), codes)[:, 0].tolist() == ["8", "9"]


@pytest.mark.parametrize(
    "column", [pd.Series([1.5]), pd.Series([True]), pd.Series([pd.Timestamp("2020-01-01")]), pd.Series([12.0])]
)
def test_what_has_several_spellings_is_refused_with_what_to_do(column: "pd.Series[Any]") -> None:
    with pytest.raises(errors.InvalidArgument, match="dtype=str") as refusal:
        column_values(column, TEXT)
    assert refusal.value.reason == "COLUMN_TYPE"


@pytest.mark.parametrize(
    "value",
    [
        date(1970, 1, 2),
        datetime(1970, 1, 2),
        datetime(1970, 1, 2, 2, tzinfo=timezone(timedelta(hours=2))),
        pd.Timestamp("1970-01-02T00:00:00.000000999"),
        np.datetime64("1970-01-02"),
        "1970-01-02",
        "1970-01-02T01:00+01:00",
        "1970-01-02 00:00:00Z",
    ],
)
def test_a_moment_is_the_same_microsecond_however_it_is_given(value: object) -> None:
    assert column_values(pd.Series([value], dtype=object), DATE).tolist() == [[DAY]]
    sent = to_row({"d": value}).values["d"]
    assert platform_microseconds(sent.text) == DAY


def test_times_of_day_and_missing_dates() -> None:
    assert column_values(pd.Series([time(0, 0, 1)], dtype=object), DATE).tolist() == [[1_000_000]]
    found = column_values(pd.Series([pd.Timestamp("1970-01-02"), pd.NaT]), DATE_OR_NONE)[:, 0]
    assert found[0] == DAY
    assert np.isnan(found[1])
    with pytest.raises(errors.InvalidArgument, match="row 1 holds no value"):
        column_values(pd.Series([pd.Timestamp("1970-01-02"), pd.NaT]), DATE)
    with pytest.raises(errors.InvalidArgument, match="ISO 8601"):
        column_values(pd.Series(["02.01.1970"]), DATE)


def test_durations_are_seconds() -> None:
    assert column_values(pd.Series(pd.to_timedelta([90, 500], unit="ms")), NUMBER)[:, 0].tolist() == [0.09, 0.5]


@given(moment=st.datetimes(timezones=st.just(UTC)))
@settings(deadline=None)
def test_sdk_and_platform_read_the_same_moment(moment: datetime) -> None:
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert platform_microseconds(moment.isoformat()) == expected
    assert column_values(pd.Series([moment.isoformat()], dtype=object), DATE).tolist() == [[expected]]
