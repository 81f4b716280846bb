"""The perceptron: learns what a linear model cannot, exports what it says, and is the same every time."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.encoding import Encoding
from services.training.domain.families.model import Run, Stopped, TrainedModel
from services.training.domain.families.neural.mlp import MlpCore
from services.training.domain.families.parity import measure_parity
from tests.training.families.training import credit, inputs_and, mixed, train

FEW: dict[str, object] = {"epochs": 5, "hidden_units": 16}


def _rings(rows: int = 600, seed: int = 0) -> pa.Table:
    """Return points in the plane, those near the origin of one class: no line parts them."""
    points = np.random.default_rng(seed).normal(size=(rows, 2))
    return pa.table({"x": points[:, 0], "y": points[:, 1], "near": (points**2).sum(axis=1) < 1.2})


def test_what_no_line_parts_is_learned() -> None:
    trained = train("mlp", _rings(), "near", {"epochs": 40, "learning_rate": 0.01, "hidden_units": 32})
    assert fitting.evaluate(trained.model, trained.held_out).metrics["accuracy"] > 0.93
    linear = train("logistic_regression", _rings(), "near")
    assert fitting.evaluate(linear.model, linear.held_out).metrics["accuracy"] < 0.8


@pytest.mark.parametrize("target", ["value", "is_dear", "label"])
def test_export_says_what_the_model_says(target: str) -> None:
    trained = train("mlp", inputs_and(mixed(), target), target, FEW)
    parity = measure_parity(trained.model, trained.model.export(), trained.held_out)
    assert parity.max_difference <= 1e-6
    assert parity.label_mismatches == 0


def test_credit_comes_within_a_point_of_trees() -> None:
    found: dict[str, list[float]] = {"mlp": [], "boosted_trees": []}
    for seed in range(5):
        for family, values in found.items():
            trained = train(family, credit(), "creditability", seed=seed)
            values.append(fitting.evaluate(trained.model, trained.held_out).metrics["roc_auc"])
    assert np.mean(found["mlp"]) > np.mean(found["boosted_trees"]) - 0.01


def test_same_rows_and_seed_give_the_same_model_and_another_seed_another() -> None:
    table = inputs_and(mixed(), "label")
    first, again, other = (train("mlp", table, "label", FEW, seed=seed).model.files() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_stored_model_is_the_same_when_it_is_loaded() -> None:
    trained = train("mlp", inputs_and(mixed(), "value"), "value", FEW)
    loaded = fitting.load(trained.model.files())
    assert np.array_equal(loaded.predict(trained.held_out).values, trained.model.predict(trained.held_out).values)


@pytest.mark.parametrize("target", ["value", "label"])
def test_fine_tune_begins_where_its_parent_ended(target: str) -> None:
    table = inputs_and(mixed(), target)
    base = train("mlp", table, target, FEW).model
    # A step that changes next to nothing.
    same = train("mlp", table, target, {"epochs": 1, "learning_rate": 1e-6, "dropout": 0.0}, base=base).model
    before, after = base.predict(table), same.predict(table)
    assert np.allclose(before.values, after.values, rtol=0.01, atol=0.01)


def test_fine_tune_of_the_last_layer_leaves_the_others() -> None:
    table = inputs_and(mixed(), "label")
    base = train("mlp", table, "label", FEW).model
    tuned = train("mlp", table, "label", {"epochs": 3, "trainable": "last"}, base=base).model
    assert np.allclose(tuned.core.first.weights, base.core.first.weights)  # type: ignore[attr-defined]
    assert not np.allclose(tuned.core.layers[-1][0], base.core.layers[-1][0])  # type: ignore[attr-defined]


def _core(model: TrainedModel) -> MlpCore:
    assert isinstance(model.core, MlpCore)
    return model.core


@pytest.mark.parametrize("trainable", ["all", "last"])
def test_fine_tune_keeps_what_its_rows_do_not_show(trainable: str) -> None:
    table = inputs_and(mixed(), "value")
    base = train("mlp", table, "value", FEW).model
    # Of one town, and whose size never lacks.
    shown = table.filter(pc.and_(pc.equal(table["town"], "Bern"), pc.is_valid(table["size"])))
    settings = {"epochs": 3, "weight_decay": 0.0, "trainable": trainable}
    before, after = _core(base).first, _core(train("mlp", shown, "value", settings, base=base).model).first
    towns = base.columns[5].categories
    others = [place for place, town in enumerate(towns) if town != "Bern"]
    assert before.category_weights[others].all()
    assert np.array_equal(after.category_weights[others], before.category_weights[others])
    size = [column.name for column in Encoding(base.columns).numeric].index("size")
    assert before.missing_weights[size].all()
    assert np.array_equal(after.missing_weights[size], before.missing_weights[size])
    assert np.array_equal(after.weights, before.weights) == (trainable == "last")


def test_fine_tune_sees_a_value_of_one_row_only_where_its_base_learned_it() -> None:
    table = inputs_and(mixed(), "value").select(["size", "town", "value"])
    towns = ["Ulm", *table["town"].to_pylist()[1:]]
    table = table.set_column(1, "town", pa.array(towns))
    base = train("mlp", table, "value", FEW).model
    most = table.filter(pc.equal(table["town"], "Bern"))
    one_each = pa.concat_tables([most, *(table.slice(towns.index(town), 1) for town in ("Ulm", "Köln"))])
    schema = fitting.describe("mlp", one_each, "value", base.hyperparameters, base=base)
    run = Run(base.hyperparameters, 0, lambda _: None, lambda: False)
    tuned = fitting.fit("mlp", schema, one_each, run, base)
    assert isinstance(tuned, TrainedModel)
    before, after = _core(base).first.category_weights, _core(tuned).first.category_weights
    ulm, other = (base.columns[1].categories.index(town) for town in ("Ulm", "Köln"))
    assert not before[ulm].any()
    assert not after[ulm].any()
    assert before[other].all()
    assert after[other].all()
    assert (after[other] != before[other]).all()


def test_training_stops_where_rows_aside_gain_no_more() -> None:
    settings = {"epochs": 300, "early_stopping": 4, "learning_rate": 0.05, "schedule": "constant", "dropout": 0.0}
    trained = train("mlp", _rings(), "near", settings)
    assert 4 < len(trained.told) < 250
    assert {"loss", "validation_loss", "learning_rate"} <= set(trained.told[-1].metrics)
    assert fitting.evaluate(trained.model, trained.held_out).metrics["accuracy"] > 0.9


def test_rare_classes_count_more_where_they_are_balanced() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=2000)
    table = pa.table({"x": x, "rare": (x + draw.normal(size=2000)) > 2.6})
    recalls = []
    for weight in ("none", "balanced"):
        trained = train("mlp", table, "rare", {**FEW, "class_weight": weight})
        found = trained.model.predict(table).values
        recalls.append(found[np.asarray(table.column("rare"))].mean())
    assert recalls[1] > recalls[0] + 0.2


def test_loss_that_is_no_number_names_its_batch() -> None:
    settings = {"optimizer": "sgd", "learning_rate": 10.0, "gradient_clip": 0.0, "schedule": "constant", "warmup": 0.0}
    with pytest.raises(InvalidArgument, match=r"at batch \d+ of epoch \d+") as caught:
        train("mlp", inputs_and(mixed(), "value"), "value", {**settings, "epochs": 50})
    assert caught.value.reason == "LOSS_DIVERGED"


def test_fit_that_is_cancelled_stops() -> None:
    asked = []

    def is_cancelled() -> bool:
        asked.append(True)
        return len(asked) > 3

    with pytest.raises(Stopped):
        train("mlp", _rings(), "near", is_cancelled=is_cancelled)


def test_half_precision_learns_too() -> None:
    trained = train("mlp", _rings(), "near", {"epochs": 40, "learning_rate": 0.01, "precision": "bfloat16"})
    assert fitting.evaluate(trained.model, trained.held_out).metrics["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("name", "value"),
    [("optimizer", "adagrad"), ("schedule", "cyclic"), ("precision", "float8"), ("trainable", "first")],
)
def test_wrong_names_list_the_right_ones(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match="must be one of"):
        train("mlp", _rings(), "near", {name: value})
