"""Which task was chosen, and that a model learned nothing, is said."""

import numpy as np
import pyarrow as pa
import pytest

from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.target import Target
from services.training.domain.outcome_cautions import caution_of_constant, caution_of_task
from tests.training.families.training import train


def _said(family: str, values: list[object], settings: dict[str, object] | None = None) -> str:
    table = pa.table({"x": [float(row) for row in range(len(values))], "y": values})
    resolved = resolve_hyperparameters(family, settings or {})
    target = fitting.describe(family, table, "y", resolved).target
    return " ".join(caution_of_task(table, target, family, resolved))


@pytest.mark.parametrize(
    ("family", "values", "words"),
    [
        ("boosted_trees", [0, 1, 2], "task='classification'"),
        ("mlp", [1, 2, 3, 4], "task='classification'"),
        ("boosted_trees", [1.0, 2.0, 3.0], "task='classification'"),
        ("linear_regression", [0, 1, 2], "logistic_regression"),
        ("linear_regression", [0, 1], "logistic_regression"),
        ("boosted_trees", [5, 10], "the classes 5, 10 (classification)"),
        ("mlp", [1, 2], "task='regression'"),
        ("logistic_regression", list(range(30)), "linear_regression"),
    ],
)
def test_the_task_that_was_chosen_for_few_whole_numbers_is_said(family: str, values: list[object], words: str) -> None:
    assert words in _said(family, values * 10)


@pytest.mark.parametrize(
    ("family", "values", "settings"),
    [
        ("boosted_trees", [0, 1], {}),
        ("boosted_trees", [0, 1, 2], {"task": "classification"}),
        ("boosted_trees", [0, 1, 2], {"task": "regression"}),
        ("boosted_trees", [0.5, 1.0, 2.0], {}),
        ("boosted_trees", ["a", "b", "c"], {}),
        ("logistic_regression", [0, 1, 2], {}),
        ("boosted_trees", list(range(40)), {}),
    ],
)
def test_nothing_is_said_where_nothing_was_guessed(
    family: str, values: list[object], settings: dict[str, object]
) -> None:
    assert not _said(family, values * 10, settings)


def _constant(family: str, table: pa.Table, settings: dict[str, object]) -> list[str]:
    trained = train(family, table, "y", settings)
    judgement = fitting.judge(trained.model, table)[1]
    assert judgement is not None
    return caution_of_constant(judgement, trained.model.hyperparameters)


@pytest.mark.parametrize(
    ("family", "labels", "settings", "words"),
    [
        ("boosted_trees", [0.1, 0.2, 0.3, 0.4], {}, "min_child_samples (20"),
        ("boosted_trees", [0.1, 0.2, 0.3, 0.4], {"l1": 1e6, "min_child_samples": 1}, "l1"),
        ("logistic_regression", ["a", "b", "b", "b"], {"c": 1e-6}, "class 'b'"),
        ("mlp", ["a", "b", "b", "b"], {"epochs": 30, "hidden_units": 2}, "epochs"),
        ("linear_regression", [0.1, 0.2, 0.3, 0.4], {"l2": 1e6}, "lower l2"),
    ],
)
def test_a_model_that_predicts_the_same_for_all_rows_is_named(
    family: str, labels: list[object], settings: dict[str, object], words: str
) -> None:
    table = pa.table({"x": [float(row) for row in range(16)], "y": labels * 4})
    found = _constant(family, table, settings)
    assert words in " ".join(found)


def test_small_tables_are_parted_by_default() -> None:
    table = pa.table({"x": [float(row) for row in range(16)], "y": [0.1, 0.2, 0.3, 0.4] * 4})
    settings = resolve_hyperparameters("boosted_trees", {}, rows=16)
    assert settings["min_child_samples"] == 1
    assert _constant("boosted_trees", table, dict(settings)) == []
    assert resolve_hyperparameters("boosted_trees", {"min_child_samples": 7}, rows=16)["min_child_samples"] == 7
    assert resolve_hyperparameters("boosted_trees", {}, rows=1000)["min_child_samples"] == 20
    assert resolve_hyperparameters("mlp", {}, rows=16) == resolve_hyperparameters("mlp", {})


def test_constant_columns_give_a_constant_model() -> None:
    table = pa.table({"x": [1.0] * 40, "y": np.arange(40.0)})
    for family, settings in (("linear_regression", {}), ("boosted_trees", {"min_child_samples": 2})):
        assert _constant(family, table, dict(settings)), family


def test_forecasts_are_left_alone() -> None:
    target = Target("y", "forecasting", (), "FP32", horizon=2)
    assert caution_of_task(pa.table({"y": [[1.0, 2.0]]}), target, "rnn", {}) == []
