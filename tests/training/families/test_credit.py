import onnxruntime
import pyarrow as pa
import pytest

from services.training.domain.families import fitting
from services.training.domain.families.parity import measure_parity, run_onnx
from tests.training.families.training import credit, train

TARGET = "creditability"


@pytest.mark.parametrize(
    ("family", "target", "hyperparameters", "metric", "least"),
    [
        ("logistic_regression", TARGET, {}, "roc_auc", 0.75),
        ("boosted_trees", TARGET, {}, "roc_auc", 0.72),
        ("linear_regression", "credit_amount", {}, "r2", 0.45),
        ("linear_regression", "credit_amount", {"optimizer": "adam", "epochs": 30}, "r2", 0.45),
        ("linear_regression", "credit_amount", {"optimizer": "sgd", "epochs": 30}, "r2", 0.45),
        ("boosted_trees", "credit_amount", {}, "r2", 0.45),
    ],
)
def test_credit_is_learned_and_exported(
    family: str, target: str, hyperparameters: dict[str, object], metric: str, least: float
) -> None:
    values = []
    for seed in range(3):
        trained = train(family, credit(), target, hyperparameters, seed=seed)
        parity = measure_parity(trained.model, trained.model.export(), trained.held_out)
        assert parity.max_difference <= 1e-6
        assert parity.label_mismatches == 0
        assert parity.rows == trained.held_out.num_rows == 100
        values.append(fitting.evaluate(trained.model, trained.held_out).metrics[metric])
    assert sum(values) / len(values) > least


def test_the_graph_takes_raw_columns_and_gives_labels() -> None:
    trained = train("logistic_regression", credit(), TARGET)
    session = onnxruntime.InferenceSession(trained.model.export(), providers=["CPUExecutionProvider"])
    names = [name for name in credit().column_names if name != TARGET]
    assert [item.name for item in session.get_inputs()] == names
    assert {item.type for item in session.get_inputs()} == {"tensor(string)", "tensor(int64)"}
    assert all(item.shape[1] == 1 for item in session.get_inputs())
    assert [(item.name, item.type) for item in session.get_outputs()] == [
        ("prediction", "tensor(string)"),
        ("probabilities", "tensor(float)"),
    ]
    outputs = run_onnx(trained.model, trained.model.export(), trained.held_out)
    assert set(outputs["prediction"].reshape(-1)) == {"good", "bad"}
    chosen = outputs["probabilities"].argmax(axis=1)
    assert [trained.model.target.classes[place] for place in chosen] == outputs["prediction"].reshape(-1).tolist()


def test_a_column_of_names_does_not_spoil_trees() -> None:
    table = credit()
    names = pa.array([f"customer {row}" for row in range(table.num_rows)])
    named = train("boosted_trees", table.add_column(0, "customer", names), TARGET, {"max_categories": 1000}, seed=1)
    plain = train("boosted_trees", table, TARGET, seed=1)
    with_names = fitting.evaluate(named.model, named.held_out).metrics["roc_auc"]
    without = fitting.evaluate(plain.model, plain.held_out).metrics["roc_auc"]
    assert with_names > without - 0.02
