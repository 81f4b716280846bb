"""Curves agree with scikit-learn's, and stay small."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from services.training.domain.families.metrics import roc_auc
from services.training.domain.report.curves import curves, share_interval
from services.training.domain.report.parts import ordered_parts

DRAW = np.random.default_rng(1)


# The first example loads what it compares with.
@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])), min_size=2, max_size=60))
def test_numbers_are_those_of_scikit_learn(rows: list[tuple[bool, float]]) -> None:
    positive, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = curves("yes", positive, scores)
    if positive.all() or not positive.any():
        assert found is None
        return
    assert found is not None
    assert found.roc_auc == pytest.approx(metrics.roc_auc_score(positive, scores))
    assert found.average_precision == pytest.approx(metrics.average_precision_score(positive, scores))
    assert found.brier == pytest.approx(metrics.brier_score_loss(positive, scores))
    false, true, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
    assert np.allclose(found.roc, np.column_stack([false, true]))
    assert found.ks == pytest.approx((true - false).max())
    assert 0.0 <= found.roc_auc_low <= found.roc_auc <= found.roc_auc_high <= 1.0
    assert sum(map(sum, found.histogram)) == len(rows)
    assert sum(bin[4] for bin in found.calibration) == len(rows)


def test_curve_of_many_rows_has_few_points_and_the_same_area() -> None:
    positive = DRAW.random(50_000) < 0.03
    scores = np.clip(0.1 + 0.2 * positive + 0.1 * DRAW.normal(size=50_000), 0, 1)
    found = curves("yes", positive, scores)
    assert found is not None
    assert len(found.roc) <= 202
    assert len(found.precision_recall) <= 202
    assert (found.roc[0], found.roc[-1]) == ([0.0, 0.0], [1.0, 1.0])
    x, y = np.array(found.roc).T
    assert np.trapezoid(y, x) == pytest.approx(roc_auc(positive, scores), abs=2e-3)


def test_calibrated_scores_lie_on_the_line_and_bent_ones_do_not() -> None:
    said = DRAW.random(20_000)
    true = DRAW.random(20_000) < said
    honest, bent = curves("yes", true, said), curves("yes", true, said**3)
    assert honest is not None
    assert bent is not None
    assert honest.calibration_error < 0.02
    assert bent.calibration_error > 0.15
    # Nine or ten of ten 95% intervals hold the truth.
    assert sum(low <= mean <= high for mean, _, low, high, _ in honest.calibration) >= 8


def test_rows_of_one_score_share_a_bin() -> None:
    # In the order of the truth: bins that cut a tie would hold one kind each.
    positive = np.repeat([False, True], 500)
    found = curves("yes", positive, np.full(1000, 0.5))
    assert found is not None
    assert found.calibration_error == 0.0
    assert [bin[4] for bin in found.calibration] == [1000.0]


@given(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), min_size=1, max_size=80), st.integers(1, 10))
def test_parts_cut_no_tie_and_hold_every_row_once(values: list[float], count: int) -> None:
    scores = np.array(values)
    parts = ordered_parts(scores, min(count, len(scores)))
    assert sorted(np.concatenate(parts)) == list(range(len(scores)))
    assert 1 <= len(parts) <= count
    assert all(scores[before].max() < scores[after].min() for before, after in itertools.pairwise(parts))


@given(st.integers(1, 200), st.integers(1, 10))
def test_parts_of_scores_that_differ_are_of_one_size(rows: int, count: int) -> None:
    sizes = [len(part) for part in ordered_parts(np.random.default_rng(0).permutation(rows), min(count, rows))]
    assert len(sizes) == min(count, rows)
    assert max(sizes) - min(sizes) <= 1


def test_interval_of_a_share_holds_it() -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I: 81 of 263, 15 of 148, 0 of 20.
    assert share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert share_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert share_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
