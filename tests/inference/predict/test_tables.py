"""Arrow batches to arrays: the same that rows of the same values become."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton.v1 import registry_pb2
from servicekit.errors import InvalidArgument
from services.inference.predict.answers import Answers
from services.inference.predict.rows import rows_to_arrays
from services.inference.predict.tables import answer_columns, batch_to_arrays
from services.inference.serving.loading import load_model
from tests.inference.predict.models import credit_model, credit_signature, price_model, price_signature, row

CREDIT = load_model("credit", registry_pb2.Version(number=1, signature=credit_signature()), credit_model())
PRICES = load_model("prices", registry_pb2.Version(number=1, signature=price_signature()), price_model())

records = st.fixed_dictionaries(
    {
        "amount": st.none() | st.floats(-1e9, 1e9),
        "months": st.integers(-(2**53), 2**53),
        "purpose": st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
        "urgent": st.booleans(),
    }
)


def batch(rows: list[dict[str, object]]) -> pa.RecordBatch:
    kinds = {"amount": pa.float64(), "months": pa.int64(), "purpose": pa.string(), "urgent": pa.bool_()}
    return pa.RecordBatch.from_pylist(rows, schema=pa.schema(list(kinds.items())))


@given(st.lists(records, min_size=1, max_size=20))
def test_batch_becomes_what_its_rows_become(rows: list[dict[str, object]]) -> None:
    from_batch = batch_to_arrays(batch(rows), CREDIT)
    from_rows = rows_to_arrays([row(**record) for record in rows], CREDIT)
    assert list(from_batch) == list(from_rows) == ["amount", "months", "purpose", "urgent"]
    for name, array in from_rows.items():
        np.testing.assert_array_equal(from_batch[name], array)
        assert from_batch[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("column", "fits"),
    [
        (pa.array([1, 2], pa.int32()), True),
        (pa.array([1.5, 2.5], pa.float32()), True),
        (pa.array([2**60, 1], pa.uint64()), True),
        (pa.array(["1", "2"]), False),
        (pa.array([True, False]), False),
        (pa.array([1, 2], pa.timestamp("s")), False),
    ],
)
def test_column_of_another_type_is_read_or_refused(column: pa.Array, fits: bool) -> None:
    rows = pa.RecordBatch.from_arrays([column], names=["size"])
    if fits:
        assert batch_to_arrays(rows, PRICES)["size"].dtype == np.float64
        return
    with pytest.raises(InvalidArgument) as refusal:
        batch_to_arrays(rows, PRICES)
    assert refusal.value.reason == "COLUMN_TYPE"


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_value_that_the_model_does_not_take_is_named_by_its_row_in_the_dataset(value: float | None) -> None:
    rows = pa.RecordBatch.from_arrays([pa.array([1.0, value], pa.float64())], names=["size"])
    with pytest.raises(InvalidArgument, match="row 101, column 'size'"):
        batch_to_arrays(rows, PRICES, first_row=100)


def test_several_values_a_row_become_numbered_columns() -> None:
    answers = Answers(np.array([[1.0, 2.0], [3.0, 4.0]]), False, None, ())
    columns = answer_columns(answers, PRICES, ["size"])
    assert {name: column.to_pylist() for name, column in columns.items()} == {
        "price_0": [1.0, 3.0],
        "price_1": [2.0, 4.0],
    }


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (pa.array(["007", None]), ["007", ""]),
        (pa.array([12, None]), ["12", ""]),
        (pa.array([True, False]), None),
        (pa.array([1.5, 2.0]), None),
        (pa.array([0, 1], pa.timestamp("s")), None),
    ],
)
def test_texts_are_taken_as_they_are_and_never_made_of_what_has_several_spellings(
    column: pa.Array, texts: list[str] | None
) -> None:
    others = {"amount": [1.0, 2.0], "months": [1, 2], "urgent": [True, False]}
    rows = pa.RecordBatch.from_pydict({**others, "purpose": column})
    if texts is not None:
        assert batch_to_arrays(rows, CREDIT)["purpose"].ravel().tolist() == texts
        return
    with pytest.raises(InvalidArgument, match="import the dataset with this column as string") as refusal:
        batch_to_arrays(rows, CREDIT)
    assert refusal.value.reason == "COLUMN_TYPE"


def test_numbers_are_no_truth_values() -> None:
    rows = pa.RecordBatch.from_pydict({"amount": [1.0], "months": [1], "purpose": ["car"], "urgent": [1]})
    with pytest.raises(InvalidArgument):
        batch_to_arrays(rows, CREDIT)
