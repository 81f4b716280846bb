"""Probabilities that hold: the line is found again, and trees that are too certain become less so."""

import numpy as np
import pyarrow as pa
import pytest

from services.training.domain.families import fitting
from services.training.domain.families.calibration import AS_IT_IS, Calibration, fit_calibration
from services.training.domain.families.model import TrainedModel
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.trees import TreesCore
from tests.training.families.training import inputs_and, mixed, train

# Deep trees on few rows learn these by heart.
OVERFIT: dict[str, object] = {"n_estimators": 200, "min_child_samples": 2, "learning_rate": 0.2}


def _noisy(rows: int, classes: int, seed: int = 0) -> pa.Table:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(rows, 4))
    odds = x[:, :classes] if classes > 2 else np.stack([np.zeros(rows), x[:, 0]], axis=1)
    goals = (odds + draw.gumbel(size=odds.shape)).argmax(axis=1)
    return pa.table({**{f"x{place}": x[:, place] for place in range(4)}, "y": [f"class {goal}" for goal in goals]})


def test_line_over_log_odds_is_found_again() -> None:
    draw = np.random.default_rng(0)
    true_odds = draw.normal(size=20_000) * 2
    truth = (draw.random(20_000) < 1 / (1 + np.exp(-true_odds))).astype(np.int64)
    found = fit_calibration(((true_odds - 0.5) * 4).reshape(-1, 1), truth)
    assert found.slope == pytest.approx(0.25, rel=0.05)
    assert found.shift == pytest.approx(0.5, abs=0.05)


def test_temperature_of_several_classes_is_found_again() -> None:
    draw = np.random.default_rng(0)
    odds = draw.normal(size=(20_000, 4))
    truth = (odds + draw.gumbel(size=odds.shape)).argmax(axis=1)
    found = fit_calibration(3.0 * odds, truth)
    assert found.slope == pytest.approx(1 / 3, rel=0.05)
    assert found.shift == 0.0


@pytest.mark.parametrize("classes", [2, 3])
def test_calibrated_trees_are_less_sure_of_what_they_learned_by_heart(classes: int) -> None:
    table = _noisy(1000, classes)
    losses = {}
    for calibration in ("off", "on"):
        trained = train("boosted_trees", table, "y", {**OVERFIT, "calibration": calibration})
        losses[calibration] = fitting.evaluate(trained.model, trained.held_out).metrics["log_loss"]
        parity = measure_parity(trained.model, trained.model.export(), trained.held_out)
        assert parity.max_difference <= 1e-6
        loaded = fitting.load(trained.model.files())
        np.testing.assert_array_equal(
            loaded.predict(trained.held_out).probabilities, trained.model.predict(trained.held_out).probabilities
        )
    assert losses["on"] < 0.75 * losses["off"]


@pytest.mark.parametrize("rows", [1000, 100])
def test_fine_tune_keeps_its_bases_calibration_unless_it_calibrates_anew(rows: int) -> None:
    base = train("boosted_trees", _noisy(1000, 2), "y", {**OVERFIT, "calibration": "on"}).model
    new, few = _noisy(rows, 2, seed=1), {"n_estimators": 2}
    kept, anew = (
        train("boosted_trees", new, "y", {**few, "calibration": calibration}, base=base).model
        for calibration in ("off", "on")
    )
    assert _calibration(base) != AS_IT_IS
    assert _calibration(kept) == _calibration(base)
    # A tenth of a hundred rows is too few to calibrate on.
    assert (_calibration(anew) == _calibration(base)) == (rows == 100)


def _calibration(model: TrainedModel) -> Calibration:
    assert isinstance(model.core, TreesCore)
    return model.core.calibration


def test_rare_classes_of_trees_count_more_where_they_are_balanced() -> None:
    table = inputs_and(mixed(400), "value")
    values = np.asarray(table.column("value"))
    rare = pa.array(values > np.quantile(values, 0.93))
    table = table.set_column(table.column_names.index("value"), "rare", rare)
    settings = {"n_estimators": 3, "min_child_samples": 2}
    found = [
        train("boosted_trees", table, "rare", {**settings, "class_weight": weight}).model.predict(table).values.mean()
        for weight in ("none", "balanced")
    ]
    assert found[1] > found[0] + 0.02
