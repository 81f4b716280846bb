"""Reports of real models: bounded, and right where a model does worse."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.datasets import load_digits

from services.training.domain.families.metrics import Judgement
from services.training.domain.families.model import Predictions
from services.training.domain.families.target import Target
from services.training.domain.report.report import report
from services.training.domain.report.residuals import residuals
from services.training.domain.report.slices import slices
from tests.training.families.training import train

DRAW = np.random.default_rng(2)


def _json(judgement: Judgement, table: pa.Table) -> dict[str, Any]:
    content = report(judgement.target, judgement, judgement.scores(), table).to_json()
    assert len(content) < 200_000
    found: dict[str, Any] = json.loads(content)
    return found


def _classes(rows: int, wrong: np.ndarray[Any, Any]) -> Judgement:
    """Return a judgement of two classes, sure and right but where wrong."""
    truth = DRAW.integers(0, 2, rows)
    second = np.where((truth == 1) ^ wrong, 0.9, 0.1)
    probabilities = np.column_stack([1 - second, second])
    return Judgement(
        Predictions(probabilities.argmax(axis=1), probabilities), truth, Target("y", "binary", ("no", "yes"), "BYTES")
    )


def test_slice_in_which_the_model_fails_comes_first() -> None:
    color = DRAW.choice(["red", "green", "blue"], 2000)
    age = DRAW.integers(18, 90, 2000)
    wrong = DRAW.random(2000) < np.where(color == "green", 0.3, 0.05)
    table = pa.table({"color": color, "age": age, "y": ["no"] * 2000})
    found = slices(_classes(2000, wrong), table)
    assert (found[0].column, found[0].value) == ("color", "green")
    assert found[0].rows == int((color == "green").sum())
    assert found[0].metrics["accuracy"] == pytest.approx(1 - wrong[color == "green"].mean())
    assert found[0].excess > 5
    # What is left is chance, and is not marked.
    assert all(other.excess < 3 for other in found[1:] if other.column != "color")
    assert "y" not in {other.column for other in found}


@pytest.mark.parametrize("has_probabilities", [True, False])
def test_slice_that_is_all_wrong_while_all_else_is_right_comes_first(has_probabilities: bool) -> None:
    color = np.array(["red"] * 900 + ["green"] * 100)
    judgement = _classes(1000, color == "green")
    if not has_probabilities:
        judgement = replace(judgement, predictions=replace(judgement.predictions, probabilities=None))
    found = slices(judgement, pa.table({"color": color, "half": ["a", "b"] * 500}))
    assert (found[0].column, found[0].value) == ("color", "green")
    # All that rows differ by is whether they are green: the square root of how many there are.
    assert found[0].excess == pytest.approx(np.sqrt(1000))


def test_no_slice_is_worse_where_all_rows_are_as_wrong() -> None:
    color = np.array(["red"] * 700 + ["green"] * 300)
    assert slices(_classes(1000, np.ones(1000, dtype=bool)), pa.table({"color": color})) == ()


def test_groups_of_residuals_do_not_depend_on_the_order_of_rows() -> None:
    values, truth = np.repeat([1.0, 2.0], 500), np.tile([0.0] * 250 + [4.0] * 250, 2)
    backwards = residuals(values[::-1], truth[::-1])
    assert residuals(values, truth).groups == backwards.groups == [[1.0, 2.0, 500.0], [2.0, 2.0, 500.0]]


def test_few_rows_are_no_slice() -> None:
    color = np.array(["red"] * 971 + ["green"] * 29)
    assert slices(_classes(1000, color == "green"), pa.table({"color": color})) == ()


def test_numbers_go_by_quartile_times_by_date_and_texts_that_differ_by_length() -> None:
    rows = 800
    number = np.arange(rows) + 0.5
    time = np.datetime64("2026-01-01") + np.arange(rows)
    text = ["x" * (1 + place % 400) + str(place) for place in range(rows)]
    missing = pa.array([None if place < 100 else place % 3 for place in range(rows)])
    wrong = number > 700
    found = slices(_classes(rows, wrong), pa.table({"number": number, "time": time, "text": text, "some": missing}))
    values = {(part.column, part.value) for part in found}
    assert ("number", "above 599.5") in values
    assert any(column == "time" and value.startswith("above 2027-") for column, value in values)
    assert any(column == "text" and value.endswith("characters") for column, value in values)
    assert all(0 < part.rows < rows for part in found)


def test_regression_has_residuals_that_stay_few() -> None:
    truth = DRAW.normal(size=30_000)
    values = truth + 0.5 + 0.1 * DRAW.normal(size=30_000)
    judgement = Judgement(Predictions(values, None), truth, Target("y", "regression", (), "FP64"))
    found = _json(judgement, pa.table({"x": truth, "y": truth}))
    residuals = found["residuals"]
    assert residuals["bias"] == pytest.approx(0.5, abs=0.01)
    assert len(residuals["points"]) == 400
    assert sum(residuals["counts"]) == 30_000
    assert residuals["quantiles"][0][1] == pytest.approx(0.5, abs=0.01)
    assert found["labels"] == found["confusion"] == found["curves"] == []


def test_report_of_ten_digits_has_a_curve_each() -> None:
    frame = load_digits(as_frame=True).frame.rename(columns={"target": "digit"})
    trained = train("logistic_regression", pa.Table.from_pandas(frame, preserve_index=False), "digit")
    probabilities = trained.model.predict(trained.held_out)
    truth = trained.held_out["digit"].to_numpy()
    judgement = Judgement(probabilities, truth, trained.model.target)
    found = _json(judgement, trained.held_out)
    assert len(found["curves"]) == 10
    assert min(curve["roc_auc"] for curve in found["curves"]) > 0.98
    assert sum(map(sum, found["confusion"])) == len(truth)
    assert found["labels"] == [str(digit) for digit in range(10)]


def test_thousand_classes_are_still_a_small_page() -> None:
    truth = DRAW.integers(0, 1000, 20_000)
    probabilities = DRAW.dirichlet(np.ones(1000), 20_000)
    target = Target("y", "multiclass", tuple(f"class {place}" for place in range(1000)), "BYTES")
    found = _json(
        Judgement(Predictions(probabilities.argmax(axis=1), probabilities), truth, target), pa.table({"x": truth})
    )
    assert len(found["curves"]) == 10
    assert (len(found["labels"]), found["labels"][-1]) == (21, "(others)")
    assert sum(map(sum, found["confusion"])) == 20_000


def test_without_probabilities_there_is_no_curve() -> None:
    truth = DRAW.integers(0, 2, 200)
    target = Target("y", "binary", ("no", "yes"), "BYTES")
    found = _json(Judgement(Predictions(truth, None), truth, target), pa.table({"x": truth}))
    assert (found["metrics"], found["curves"]) == ({"accuracy": 1.0, "f1": 1.0}, [])
