"""Rows that are set aside leave a row of each class to learn from."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.training.domain.families import fitting
from services.training.domain.families.aside import drawn_aside
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.model import Run


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 30), st.integers(0, 2**62))
def test_each_class_that_occurs_is_left_to_learn_from(labels: list[int], count: int, seed: int) -> None:
    truth = np.array(labels)
    aside = drawn_aside(truth, 4, count, seed)
    assert set(truth[~aside]) == set(labels)
    assert min(count, len(truth)) - 4 <= aside.sum() <= count


def _rare_rows_first(seed: int) -> pa.Table:
    """Return a table whose two rows of one class are the first that a draw of this seed takes."""
    rare = np.random.default_rng(seed).permutation(300)[:2]
    place = np.arange(300)
    is_rare = np.isin(place, rare)
    return pa.table({"x": np.where(is_rare, 5.0, place % 3), "y": np.where(is_rare, "rare", "usual").tolist()})


@pytest.mark.parametrize(
    ("family", "given"),
    [
        ("boosted_trees", {"early_stopping": 5, "n_estimators": 20, "min_child_samples": 1}),
        ("mlp", {"early_stopping": 50, "epochs": 50, "hidden_units": 8, "learning_rate": 0.03}),
    ],
)
def test_class_of_two_rows_is_learned_though_a_draw_would_take_both(family: str, given: dict[str, object]) -> None:
    table = _rare_rows_first(7)
    settings = resolve_hyperparameters(family, given)
    schema = fitting.describe(family, table, "y", settings)
    model = fitting.fit(family, schema, table, Run(settings, 7, lambda _: None, lambda: False))
    probabilities = model.predict(table).probabilities
    assert probabilities is not None
    is_rare = np.array(table.column("y").to_pylist()) == "rare"
    rare = probabilities[:, schema.target.classes.index("rare")]
    assert rare[is_rare].min() > 2 * rare[~is_rare].max()
