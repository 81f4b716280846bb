"""A trial's rows: apart from those that judge the study's best, and few of them drawn several times."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.metrics import Scores
from services.training.domain.families.model import Run, Stopped
from services.training.domain.families.trial import chance_of, scores_of_draws, trial_rows


def _is_apart(one: pa.Table, other: pa.Table) -> bool:
    return set(one["row"].to_pylist()).isdisjoint(other["row"].to_pylist())


def _scored(table: pa.Table, *, stops: bool = False) -> tuple[Scores, Scores]:
    """Return a trial's scores on its first draw, and on all."""
    settings = resolve_hyperparameters("boosted_trees", {"n_estimators": 5})
    schema = fitting.describe("boosted_trees", table, "y", settings)
    train, judged = trial_rows(table, schema.target, 3, judges_apart=False)
    run = Run(settings, 3, lambda _: None, lambda: False)
    first = fitting.evaluate(fitting.fit("boosted_trees", schema, train, run), judged)
    again = Run(settings, 3, lambda _: None, lambda: stops)
    return first, scores_of_draws(first, "boosted_trees", schema, table, again, judges_apart=False)


def _noisy(rows: int) -> pa.Table:
    draw = np.random.default_rng(0)
    x = draw.standard_normal(rows)
    is_up = x + draw.standard_normal(rows) > 0
    return pa.table({"x": x, "y": np.where(is_up, "up", "down"), "row": np.arange(rows).astype(float)})


@pytest.mark.parametrize("judges_apart", [True, False])
def test_no_draw_shows_a_trial_what_judges_it_nor_what_judges_the_best(judges_apart: bool) -> None:
    table = _noisy(200)
    target = fitting.describe("boosted_trees", table, "y", resolve_hyperparameters("boosted_trees", {})).target
    best = fitting.hold_out(table, target, 3)[1]
    seen = []
    for draw in range(3):
        train, judged = trial_rows(table, target, 3, judges_apart=judges_apart, draw=draw)
        assert _is_apart(train, judged)
        assert judges_apart or (_is_apart(train, best) and _is_apart(judged, best))
        seen.append(tuple(judged["row"].to_pylist()))
    assert len(set(seen)) == 3


def test_few_rows_are_judged_by_several_draws() -> None:
    first, scores = _scored(_noisy(300))
    assert scores.metrics != first.metrics
    assert set(scores.metrics) == set(first.metrics)
    # The same rows and seed are judged alike.
    assert _scored(_noisy(300))[1] == scores


def test_scores_of_several_draws_say_each() -> None:
    first, scores = _scored(_noisy(300))
    assert scores.draws["log_loss"][0] == first.metrics["log_loss"]
    assert len(scores.draws["log_loss"]) == 5
    assert np.mean(scores.draws["log_loss"]) == scores.metrics["log_loss"]


def test_chance_is_of_paired_draws_that_share_rows() -> None:
    # Mean 1, variance 4 / 3, and the rows that judge are a quarter of those learned from: t = 1 / sqrt(0.5 * 4 / 3).
    assert chance_of([0.0, 2.0, 0.0, 2.0]) == pytest.approx(scipy.stats.t.sf((0.5 * 4 / 3) ** -0.5, 3))
    assert chance_of([0.0, -2.0, 0.0, -2.0]) > 0.5
    assert chance_of([0.1, 0.1, 0.1]) == pytest.approx(0.0, abs=1e-9)
    assert chance_of([0.0, 0.0]) == 1.0
    # Of one draw nothing is known.
    assert chance_of([0.2]) == 0.0


def test_many_rows_are_judged_once() -> None:
    first, scores = _scored(_noisy(5001))
    assert scores == first


def test_a_trial_that_is_stopped_between_draws_ends() -> None:
    with pytest.raises(Stopped):
        _scored(_noisy(300), stops=True)
