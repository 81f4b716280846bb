"""Metrics are scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from services.training.domain.families.metrics import Scores, roc_auc, score, undefined_metrics
from services.training.domain.families.model import Predictions
from services.training.domain.families.target import Target

VALUES = st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=40)


def scored(classes: int, seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray, Scores]:
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, classes, rows)
    truth[:classes] = range(classes)
    probabilities = draw.dirichlet(np.ones(classes), rows).round(2)
    probabilities[:, -1] = 1.0 - probabilities[:, :-1].sum(axis=1)
    target = Target("y", "binary" if classes == 2 else "multiclass", tuple("abcdef"[:classes]), "BYTES")
    return truth, probabilities, score(Predictions(probabilities.argmax(axis=1), probabilities), truth, target)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_classification_metrics(classes: int, seed: int) -> None:
    truth, probabilities, scores = scored(classes, seed)
    predicted = probabilities.argmax(axis=1)
    found = scores.metrics
    average = "binary" if classes == 2 else "macro"
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted))
    assert found["f1"] == pytest.approx(reference.f1_score(truth, predicted, average=average))
    positive = probabilities[:, 1] if classes == 2 else probabilities
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, positive, multi_class="ovr"))
    assert found["log_loss"] == pytest.approx(reference.log_loss(truth, probabilities), rel=1e-6)
    expected = reference.confusion_matrix(truth, predicted)
    np.testing.assert_array_equal(np.reshape(scores.confusion, expected.shape), expected)
    assert scores.rows == len(truth)


def test_f1_is_the_mean_over_classes_that_occur_or_are_predicted() -> None:
    truth, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 3, 1, 1, 0])
    target = Target("y", "multiclass", tuple("abcde"), "BYTES")
    found = score(Predictions(predicted, None), truth, target).metrics["f1"]
    assert found == pytest.approx(reference.f1_score(truth, predicted, average="macro"))


@given(pairs=VALUES)
def test_regression_metrics(pairs: list[tuple[float, float]]) -> None:
    values, truth = np.array(pairs).T
    found = score(Predictions(values, None), truth, Target("y", "regression", (), "FP64")).metrics
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(truth, values))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, values))
    # Where the truth hardly varies, R2 is a quotient of roundings.
    if truth.std() > 1e-6 * max(1.0, np.abs(truth).max()):
        assert found["r2"] == pytest.approx(reference.r2_score(truth, values), rel=1e-6, abs=1e-9)


def test_a_single_class_has_no_area() -> None:
    assert roc_auc(np.array([True, True]), np.array([0.1, 0.9])) is None
    truth = np.array([1, 1])
    probabilities = np.array([[0.4, 0.6], [0.7, 0.3]])
    target = Target("y", "binary", ("a", "b"), "BYTES")
    assert "roc_auc" not in score(Predictions(probabilities.argmax(axis=1), probabilities), truth, target).metrics


def _regression(values: list[float], truth: list[float]) -> tuple[dict[str, float], list[str]]:
    target = Target("y", "regression", (), "FP64")
    scores = score(Predictions(np.array(values), None), np.array(truth), target)
    return scores.metrics, undefined_metrics(scores, target)


@pytest.mark.parametrize("truth", [[3.0], [3.0, 3.0], [0.1] * 3, [1e300, 1e300]])
def test_r2_is_left_out_where_the_truth_has_one_value(truth: list[float]) -> None:
    metrics, reasons = _regression([2.0] * len(truth), truth)
    assert set(metrics) == {"rmse", "mae"}
    assert "r2 is not defined" in reasons[0]


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1.0])
def test_numbers_of_any_size_have_scores(scale: float) -> None:
    values, truth = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0])
    metrics, reasons = _regression((values * scale).tolist(), (truth * scale).tolist())
    assert metrics["r2"] == pytest.approx(reference.r2_score(truth, values))
    assert metrics["rmse"] == pytest.approx(reference.root_mean_squared_error(truth, values) * scale, rel=1e-12)
    assert metrics["mae"] == pytest.approx(reference.mean_absolute_error(truth, values) * scale, rel=1e-12)
    assert not reasons


def test_what_one_class_alone_does_not_define_is_left_out_and_named() -> None:
    target = Target("y", "binary", ("a", "b"), "BYTES")
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2]])
    scores = score(Predictions(np.array([0, 0]), probabilities), np.array([0, 0]), target)
    assert set(scores.metrics) == {"accuracy", "log_loss"}
    assert [reason.split()[0] for reason in undefined_metrics(scores, target)] == ["f1", "roc_auc"]
