"""Series in typed rows and in datasets: padded alike, answered with intervals, refused by row and column."""

from typing import Any

import pyarrow as pa
import pytest

from lepton.v1 import prediction_pb2 as pb
from lepton.v1 import registry_pb2
from servicekit.errors import InvalidArgument
from services.inference.open_inference import grpc_service_pb2
from services.inference.predict.answers import read_answers, to_predictions, wanted_outputs
from services.inference.predict.rows import rows_to_arrays
from services.inference.predict.tables import answer_columns, batch_to_arrays
from services.inference.serving.codec import parse_inputs
from services.inference.serving.loading import load_model
from tests.inference.predict.models import row, series_model, series_signature

MODEL = load_model("series", registry_pb2.Version(number=1, signature=series_signature()), series_model())
RECORDS: list[dict[str, Any]] = [
    {"x": [1.0, 2.0, 3.0], "z": [1.0, 1.0, 1.0]},
    {"x": [5.0], "z": [None]},
    {"x": [None, 4.0], "z": [2.0, None]},
]
# Of each the sum of x, and of x and z.
EXPECTED = [[6.0, 9.0], [5.0, 5.0], [4.0, 6.0]]
KINDS = pa.schema([("x", pa.list_(pa.float64())), ("z", pa.list_(pa.float64()))])


def batch(records: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(records, schema=KINDS)


def test_rows_of_different_lengths_are_answered_with_intervals() -> None:
    arrays = MODEL.run(rows_to_arrays([row(**record) for record in RECORDS], MODEL), wanted_outputs(MODEL))
    predictions = to_predictions(read_answers(MODEL, arrays, 3))
    assert [list(prediction.values) for prediction in predictions] == EXPECTED
    assert [list(prediction.lower) for prediction in predictions] == [[a - 1, b - 1] for a, b in EXPECTED]
    assert [list(prediction.upper) for prediction in predictions] == [[a + 1, b + 1] for a, b in EXPECTED]


def test_dataset_becomes_what_its_rows_become_and_answers_become_columns_of_lists() -> None:
    from_batch = batch_to_arrays(batch(RECORDS), MODEL)
    from_rows = rows_to_arrays([row(**record) for record in RECORDS], MODEL)
    assert {name: array.tobytes() for name, array in from_batch.items()} == {
        name: array.tobytes() for name, array in from_rows.items()
    }
    answers = read_answers(MODEL, MODEL.run(from_batch, wanted_outputs(MODEL)), 3)
    columns = answer_columns(answers, MODEL, ["x", "x_next"])
    assert list(columns) == ["x_next_predicted", "lower", "upper"]
    assert columns["x_next_predicted"].to_pylist() == EXPECTED
    assert columns["lower"].type == pa.list_(pa.float64())


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ([], "a series of 0 values"),
        ([1.0, 2.0], "2"),
        (1.0, "a number"),
        (None, "a missing value"),
        ([1.0, float("inf")], "an infinity"),
        ([1e39], "an infinity"),
    ],
)
def test_series_that_the_model_does_not_take_are_named_by_row_and_column(value: object, got: str) -> None:
    rows = [row(**RECORDS[0]), row(x=[1.0], z=value)]
    with pytest.raises(InvalidArgument, match="row 1, column 'z'") as refused:
        rows_to_arrays(rows, MODEL)
    assert got in refused.value.message


def test_dataset_without_series_is_refused_by_column() -> None:
    with pytest.raises(InvalidArgument, match="row 11, column 'z'"):
        batch_to_arrays(batch([RECORDS[0], {"x": [1.0], "z": None}]), MODEL, first_row=10)
    with pytest.raises(InvalidArgument, match="expected 1 steps, as the row's other series have, got 2"):
        batch_to_arrays(batch([{"x": [1.0], "z": [1.0, 2.0]}]), MODEL)
    numbers = pa.RecordBatch.from_pydict({"x": [1.0], "z": [2.0]})
    with pytest.raises(InvalidArgument) as refused:
        batch_to_arrays(numbers, MODEL)
    assert refused.value.reason == "COLUMN_TYPE"


def test_empty_series_value_says_nothing() -> None:
    rows = [pb.Row(values={"x": pb.Value(series=pb.Series()), "z": pb.Value(series=pb.Series(values=[1.0]))})]
    with pytest.raises(InvalidArgument, match="column 'x'"):
        rows_to_arrays(rows, MODEL)


def test_tensors_of_different_widths_are_refused() -> None:
    request = grpc_service_pb2.ModelInferRequest(model_name="series")
    for name, steps in (("x", 3), ("z", 2)):
        tensor = request.inputs.add(name=name, datatype="FP32", shape=[1, steps])
        tensor.contents.fp32_contents.extend([1.0] * steps)
    with pytest.raises(InvalidArgument, match="3 steps, as the series before"):
        parse_inputs(request, MODEL)
