"""What a study's trial learns from and is judged by: rows of the study that do not judge its best."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from scipy.special import stdtr

from services.training.domain.families import fitting
from services.training.domain.families.catalog import find_family
from services.training.domain.families.checkpoints import NoCheckpoints
from services.training.domain.families.metrics import Scores
from services.training.domain.families.model import Run
from services.training.domain.families.schema import Schema
from services.training.domain.families.target import Target

# Of the rows that a trial may see, what it is judged by.
JUDGED_SHARE = 0.2
# The best of many trials on few rows is the luckiest of them: tables of so few are judged by several draws.
_FEW_ROWS, _DRAWS = 5_000, 5


def trial_rows(
    table: pa.Table, target: Target, seed: int, *, judges_apart: bool, draw: int = 0
) -> tuple[pa.Table, pa.Table]:
    """Return the rows that a trial learns from, and those that judge it.

    Args:
        table: the study's rows.
        target: what is predicted.
        seed: of the study.
        judges_apart: whether the study's best is judged by rows of another dataset; else by a share of these, which no
            trial may see.
        draw: which of several.
    """
    left = table if judges_apart else fitting.hold_out(table, target, seed)[0]
    return fitting.hold_out(left, target, seed + 1 + draw, JUDGED_SHARE)


def scores_of_draws(
    first: Scores, family: str, schema: Schema, table: pa.Table, run: Run, *, judges_apart: bool
) -> Scores:
    """Return a trial's scores; their mean over several draws (repeated random sub-sampling) for a table of few rows.

    Fits on the further draws tell nothing and keep no checkpoints.

    Args:
        first: scores on the first draw.
        family: what is fitted.
        schema: of the table.
        table: the study's rows.
        run: of the fit on the first draw.
        judges_apart: as for `trial_rows`.

    Raises:
        Stopped: it was cancelled.
    """
    if find_family(family).reads != "columns" or table.num_rows > _FEW_ROWS:
        return first
    quiet, found = replace(run, report=lambda _: None, checkpoints=NoCheckpoints()), [first.metrics]
    for draw in range(1, _DRAWS):
        train, judged = trial_rows(table, schema.target, run.seed, judges_apart=judges_apart, draw=draw)
        found.append(fitting.evaluate(fitting.fit(family, schema, train, quiet), judged).metrics)
    # One whose rows lack a class has no ROC, say.
    draws = {name: tuple(each[name] for each in found if name in each) for name in first.metrics}
    return replace(first, metrics={name: float(np.mean(values)) for name, values in draws.items()}, draws=draws)


def chance_of(gains: Sequence[float]) -> float:
    """Return how likely a gain like this one is between two trials that are equally good (one-sided p-value).

    By the corrected resampled t-test (Nadeau and Bengio, Inference for the Generalization Error, 2003), for draws share
    rows, and so say less than as many independent ones.

    Args:
        gains: of one trial over another, draw by draw, in any unit.

    Returns:
        0 to 1; 0 for fewer than two draws, of which nothing is known.
    """
    if len(gains) < 2:
        return 0.0
    mean, variance = float(np.mean(gains)), float(np.var(gains, ddof=1))
    error = np.sqrt((1 / len(gains) + JUDGED_SHARE / (1 - JUDGED_SHARE)) * variance)
    if error == 0.0:
        return 0.0 if mean > 0 else 1.0
    return float(stdtr(len(gains) - 1, -mean / error))
