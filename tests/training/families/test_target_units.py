"""Targets of any size are learned: what a scale does not change, a model of the scaled target tells alike."""

import numpy as np
import pyarrow as pa
import pytest

from services.training.domain.families import fitting
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.target_units import OWN_UNIT, tree_unit
from tests.training.families.training import FEW_TREES, train

CASES: list[tuple[str, dict[str, object]]] = [
    ("linear_regression", {}),
    ("linear_regression", {"solver": "gradient_descent", "epochs": 20}),
    ("boosted_trees", FEW_TREES),
    ("mlp", {"epochs": 10}),
]


def _table(scale: float, offset: float) -> pa.Table:
    numbers = np.arange(120.0)
    return pa.table({"x": numbers, "c": ["a", "b"] * 60, "y": numbers * scale + offset})


@pytest.mark.parametrize(("family", "given"), CASES)
@pytest.mark.parametrize(("scale", "offset"), [(1e300, 0.0), (1e-300, 0.0), (1e-9, 0.0), (1.0, 1e9), (1e30, 0.0)])
def test_targets_of_any_size_are_learned(family: str, given: dict[str, object], scale: float, offset: float) -> None:
    plain = train(family, _table(1.0, 0.0), "y", given)
    trained = train(family, _table(scale, offset), "y", given)
    expected = fitting.evaluate(plain.model, plain.held_out).metrics
    found = fitting.evaluate(trained.model, trained.held_out).metrics
    assert found["r2"] == pytest.approx(expected["r2"], abs=1e-3)
    assert found["rmse"] / scale == pytest.approx(expected["rmse"], rel=0.05, abs=1e-3)
    parity = measure_parity(trained.model, trained.model.export(), trained.held_out)
    assert parity.max_difference <= 1e-9
    again = fitting.load(trained.model.files())
    np.testing.assert_array_equal(
        again.predict(trained.held_out).values, trained.model.predict(trained.held_out).values
    )


def test_trees_learn_ordinary_targets_as_they_are() -> None:
    assert tree_unit(50.0, 20.0) == OWN_UNIT
    assert tree_unit(1e9, 20.0) != OWN_UNIT
