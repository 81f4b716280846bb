"""Rows to arrays and back to answers: order, identity, and refusals that name row and column."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.v1 import prediction_pb2 as pb
from lepton.v1 import registry_pb2
from servicekit.errors import FailedPrecondition, InvalidArgument
from services.inference.predict.answers import read_answers, to_predictions, wanted_outputs
from services.inference.predict.rows import rows_to_arrays
from services.inference.serving.loading import load_model
from services.inference.serving.model import LoadedModel
from tests.inference.models import identity
from tests.inference.predict.models import (
    credit_model,
    credit_probability,
    credit_signature,
    price_model,
    price_signature,
    row,
)

Record = tuple[float | None, int, str | None, bool]


def credit(handle_unknown: str = "ignore") -> LoadedModel:
    version = registry_pb2.Version(number=1, digest="d", signature=credit_signature(handle_unknown))
    return load_model("credit", version, credit_model())


MODEL = credit()
STRICT = credit("error")
PRICES = load_model("prices", registry_pb2.Version(number=1, digest="d", signature=price_signature()), price_model())


def record_row(record: Record) -> pb.Row:
    amount, months, purpose, urgent = record
    return row(amount=amount, months=months, purpose=purpose, urgent=urgent, creditability="good")


def answer(rows: list[pb.Row], model: LoadedModel = MODEL) -> list[pb.Prediction]:
    names = wanted_outputs(model)
    arrays = model.run(rows_to_arrays(rows, model), names)
    return to_predictions(read_answers(model, arrays, len(rows)))


records = st.tuples(
    st.none() | st.floats(-1e4, 1e4),
    st.integers(0, 100),
    st.sampled_from([None, "car", "house", "a boat"]),
    st.booleans(),
)


@given(st.lists(records, min_size=1, max_size=30))
def test_each_row_gets_its_own_answer_in_order(rows: list[Record]) -> None:
    predictions = answer([record_row(record) for record in rows])
    assert len(predictions) == len(rows)
    for record, prediction in zip(rows, predictions, strict=True):
        expected = credit_probability(*record)
        assert math.isclose(prediction.probabilities["good"], expected, abs_tol=1e-6)
        assert math.isclose(prediction.probabilities["bad"], 1 - expected, abs_tol=1e-6)
        assert prediction.probabilities[prediction.label] == max(prediction.probabilities.values())


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_regressor_gives_a_value_a_row(sizes: list[float]) -> None:
    predictions = answer([row(size=size) for size in sizes], PRICES)
    assert [list(prediction.values) for prediction in predictions] == [[2 * size + 1] for size in sizes]
    assert not any(prediction.label or prediction.probabilities for prediction in predictions)


def test_whole_numbers_fit_columns_of_either_kind() -> None:
    as_numbers = record_row((1200, 12, "car", True))
    as_numbers.values["months"].number = 12.0
    first, second = answer([record_row((1200.0, 12, "car", True)), as_numbers])
    assert first == second


GOOD_ROW: dict[str, object] = {"amount": 1.0, "months": 3, "purpose": "car", "urgent": False}


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("amount", "much", "expected a number, or missing, got a text"),
        ("amount", True, "expected a number, or missing, got a truth value"),
        ("amount", math.inf, "expected finite values, got an infinity"),
        ("months", None, "expected a whole number, got a missing value"),
        ("months", 2.5, "expected a whole number, got a number"),
        ("months", 1e300, "expected a whole number, got a number"),
        ("purpose", True, "expected a text, or missing, got a truth value"),
        ("purpose", "x" * 100, "x…|category"),
        ("urgent", 1, "expected a truth value, got an integer"),
        ("urgent", None, "expected a truth value, got a missing value"),
    ],
)
def test_refusal_names_row_column_expected_and_got(column: str, value: object, complaint: str) -> None:
    model = STRICT if column == "purpose" else MODEL
    rows = [row(**GOOD_ROW), row(**{**GOOD_ROW, column: value})]
    with pytest.raises(InvalidArgument, match=complaint) as refusal:
        rows_to_arrays(rows, model)
    assert refusal.value.reason == "BAD_ROW"
    assert [field for field, _ in refusal.value.violations] == [f'rows[1].values["{column}"]']
    assert f"row 1, column '{column}'" in refusal.value.message


def test_whole_number_is_its_digits_unless_training_wrote_it_otherwise() -> None:
    # As in a DataFrame.
    categories = frozenset(("", "7", "007", "8", "+9", "A7"))
    model = replace(MODEL, inputs={**MODEL.inputs, "purpose": replace(MODEL.inputs["purpose"], categories=categories)})
    arrays = rows_to_arrays([row(**{**GOOD_ROW, "purpose": number}) for number in (8, 10)], model)
    assert arrays["purpose"].ravel().tolist() == ["8", "10"]
    for number in (7, 9):
        with pytest.raises(InvalidArgument, match="expected a text, or missing, got an integer"):
            rows_to_arrays([row(**{**GOOD_ROW, "purpose": number})], model)


def test_missing_column_is_named_in_every_row_that_lacks_it() -> None:
    short = {name: value for name, value in GOOD_ROW.items() if name != "months"}
    with pytest.raises(InvalidArgument, match="got no such column") as refusal:
        rows_to_arrays([row(**short), row(**GOOD_ROW), row(**short)], MODEL)
    assert [field for field, _ in refusal.value.violations] == ['rows[0].values["months"]', 'rows[2].values["months"]']


def test_value_that_says_nothing_is_refused() -> None:
    rows = [row(**GOOD_ROW)]
    rows[0].values["amount"].Clear()
    with pytest.raises(InvalidArgument, match="a value that says nothing"):
        rows_to_arrays(rows, MODEL)


def test_missing_value_where_training_had_all_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"row 1, column 'size': expected a number, got a missing value"):
        rows_to_arrays([row(size=1.0), row(size=None)], PRICES)
    with pytest.raises(InvalidArgument, match="training had no missing one, got NaN"):
        rows_to_arrays([row(size=math.nan)], PRICES)


def test_unknown_category_follows_the_models_rule() -> None:
    rows = [row(**GOOD_ROW), row(**{**GOOD_ROW, "purpose": "a boat"})]
    assert len(rows_to_arrays(rows, MODEL)["purpose"]) == 2
    with pytest.raises(InvalidArgument, match="row 1, column 'purpose': expected a category that training saw"):
        rows_to_arrays(rows, STRICT)


def test_many_wrong_values_are_told_in_part() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        rows_to_arrays([row(size="x")] * 1000, PRICES)
    assert len(refusal.value.violations) == 16


def test_model_of_tensors_says_how_to_ask_it() -> None:
    with pytest.raises(FailedPrecondition, match="ModelInfer") as refusal:
        rows_to_arrays([row(x=1.0)], identity("FP32"))
    assert refusal.value.reason == "NOT_COLUMNS"


def test_narrow_integers_are_checked_for_their_range() -> None:
    model = identity("INT8", columns=1)
    assert rows_to_arrays([row(x=-128)], model)["x"].dtype == np.int8
    with pytest.raises(InvalidArgument, match="from -128 to 127, got an integer"):
        rows_to_arrays([row(x=128)], model)
