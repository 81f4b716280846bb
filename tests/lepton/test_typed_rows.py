"""Plain Python values become the contract's, and answers a DataFrame."""

import datetime
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from lepton import errors
from lepton.typed_rows import to_frame, to_row, to_texts_request, to_vectors
from lepton.v1 import prediction_pb2 as pb


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, "missing", pb.Missing()),
        (math.nan, "missing", pb.Missing()),
        (np.float64("nan"), "missing", pb.Missing()),
        (pd.NA, "missing", pb.Missing()),
        (True, "boolean", True),
        (np.False_, "boolean", False),
        (7, "integer", 7),
        (np.int32(-7), "integer", -7),
        (2**63, "number", 2.0**63),
        (2.5, "number", 2.5),
        (np.float32(0.5), "number", 0.5),
        ("car", "text", "car"),
        (datetime.timedelta(minutes=1), "number", 60.0),
        (np.timedelta64(1500, "ms"), "number", 1.5),
        (Decimal("0.5"), "number", 0.5),
        (Decimal(3), "integer", 3),
    ],
)
def test_value_becomes_one_of_its_kind(value: object, kind: str, expected: object) -> None:
    found = to_row({"x": value}).values["x"]
    assert found.WhichOneof("kind") == kind
    assert getattr(found, kind) == expected


def test_value_of_another_kind_is_refused_by_its_column() -> None:
    with pytest.raises(errors.InvalidArgument, match="column 'x' holds a dict"):
        to_row({"x": {"y": 1}})
    with pytest.raises(errors.InvalidArgument, match="column 'x' holds a list of other than numbers"):
        to_row({"x": ["a"]})


@pytest.mark.parametrize("value", [[1, None, 3.5], (1.0, math.nan, 3.5), np.array([1.0, np.nan, 3.5])])
def test_list_of_numbers_is_a_series(value: object) -> None:
    first, missing, last = to_row({"x": value}).values["x"].series.values
    assert (first, math.isnan(missing), last) == (1.0, True, 3.5)


def test_forecast_becomes_columns_of_lists() -> None:
    frame = to_frame([pb.Prediction(values=[1, 2], lower=[0, 1], upper=[2, 3])], "x_next", [])
    assert {name: list(frame[name][0]) for name in frame} == {"x_next": [1, 2], "lower": [0, 1], "upper": [2, 3]}


def test_answers_become_columns_in_the_classes_order() -> None:
    predictions = [pb.Prediction(label="b", probabilities={"b": 0.75, "a": 0.25})]
    frame = to_frame(predictions, "kind", ["a", "b"])
    assert frame.to_dict("records") == [{"kind": "b", "probability_a": 0.25, "probability_b": 0.75}]
    assert to_frame([pb.Prediction(values=[1.5])], "price", []).to_dict("records") == [{"price": 1.5}]
    assert list(to_frame([pb.Prediction(values=[1, 2])], "at", []).columns) == ["at_0", "at_1"]


def test_texts_and_pairs_of_them_become_a_request() -> None:
    assert list(to_texts_request(["a", "b"]).texts) == ["a", "b"]
    asked = to_texts_request(iter([("a", "b"), ("c", "d")]))
    assert asked.text_pairs == [pb.TextPair(first="a", second="b"), pb.TextPair(first="c", second="d")]
    assert not asked.texts


@pytest.mark.parametrize(
    "texts", [["a", ("b", "c")], [("a",)], [("a", "b", "c")], [("a", None)], [math.nan], ["a", None]]
)
def test_what_is_neither_text_nor_pair_is_refused(texts: list[object]) -> None:
    with pytest.raises(errors.InvalidArgument) as refused:
        to_texts_request(texts)  # type: ignore[arg-type]
    assert refused.value.reason == "NOT_TEXTS"


def test_vectors_become_an_array_and_labels_none() -> None:
    found = to_vectors([pb.Prediction(values=[0.5, 1.0]), pb.Prediction(values=[1.5, 2.0])], "m")
    assert (found.dtype, found.tolist()) == (np.float32, [[0.5, 1.0], [1.5, 2.0]])
    with pytest.raises(errors.FailedPrecondition, match="no vectors"):
        to_vectors([pb.Prediction(label="x")], "m")
