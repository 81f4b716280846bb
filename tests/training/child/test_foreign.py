"""Models made elsewhere are scored where their inputs are columns."""

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from servicekit.errors import InvalidArgument
from services.training.domain.foreign import ForeignModel, Tensor, score_foreign
from tests.support.onnx_models import column_model

AMOUNT = Tensor("amount", "FP32", (-1, 1))
KIND = Tensor("kind", "BYTES", (-1, 1))
PREDICTION = Tensor("prediction", "FP32", (-1, 1))
ROWS = pa.table({"amount": [1.0, 2.0, 3.0], "kind": ["a", "b", "a"], "y": [1.0, 3.0, 4.0]})


def _classifier() -> bytes:
    """Return a model whose label is whether x > 0, and whose probabilities are 0.9 for that label."""
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["is_positive"]),
        helper.make_node("Cast", ["is_positive"], ["label_2d"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["label_2d", "one"], ["label"]),
        helper.make_node("Cast", ["is_positive"], ["share"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["share", "most"], ["scaled"]),
        helper.make_node("Add", ["scaled", "least"], ["positive"]),
        helper.make_node("Sub", ["full", "positive"], ["negative"]),
        helper.make_node("Concat", ["negative", "positive"], ["scores"], axis=1),
    ]
    constants = {
        "zero": np.array([0.0], np.float32),
        "one": np.array([1], np.int64),
        "most": np.array([0.8], np.float32),
        "least": np.array([0.1], np.float32),
        "full": np.array([1.0], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


X = Tensor("x", "FP32", (-1, 1))
LABELS = (Tensor("label", "INT64", (-1,)), Tensor("scores", "FP32", (-1, 2)))
POINTS = pa.table({"x": [1.0, -1.0, 2.0, -2.0], "y": [1, 0, 1, 1]})


def test_fractions_are_scored_as_values() -> None:
    scores = score_foreign(ForeignModel(column_model(), (AMOUNT, KIND), (PREDICTION,)), ROWS, "y")
    assert scores.rows == 3
    assert scores.metrics["mae"] == pytest.approx(1 / 3)


def test_labels_alone_give_no_metric_that_needs_probabilities() -> None:
    scores = score_foreign(ForeignModel(_classifier(), (X,), LABELS), POINTS, "y")
    assert scores.metrics == {"accuracy": 0.75, "f1": pytest.approx(0.8)}
    assert (scores.labels, scores.confusion) == (("0", "1"), (1, 0, 1, 2))


def test_probabilities_count_where_the_classes_are_known() -> None:
    scores = score_foreign(ForeignModel(_classifier(), (X,), LABELS, ("0", "1")), POINTS, "y")
    expected = -(3 * np.log(0.9) + np.log(0.1)) / 4
    assert scores.metrics["log_loss"] == pytest.approx(expected, rel=1e-5)
    assert "roc_auc" in scores.metrics


def test_many_rows_are_scored_in_parts() -> None:
    count = 10_000
    table = pa.table({"x": np.ones(count), "y": np.ones(count, np.int64)})
    assert score_foreign(ForeignModel(_classifier(), (X,), LABELS, ("0", "1")), table, "y").rows == count


@pytest.mark.parametrize(
    ("inputs", "table", "reason"),
    [
        ((Tensor("x", "FP32", (-1, 2)),), ROWS, "SIGNATURE_MISMATCH"),
        ((Tensor("other", "FP32", (-1, 1)),), ROWS, "SIGNATURE_MISMATCH"),
        ((AMOUNT, KIND), ROWS.slice(0, 0), "NO_ROWS"),
        ((AMOUNT, KIND), ROWS.drop_columns(["y"]), "TARGET_NOT_FOUND"),
        ((AMOUNT, KIND), ROWS.set_column(0, "amount", pa.array(["x", "y", "z"])), "COLUMN_TYPE"),
    ],
)
def test_rows_that_do_not_suit_are_refused(inputs: tuple[Tensor, ...], table: pa.Table, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        score_foreign(ForeignModel(column_model(), inputs, (PREDICTION,)), table, "y")
    assert refusal.value.reason == reason
