"""Where a model does worse than elsewhere: its rows by value, or quartile, of each column."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array
from services.training.domain.families.metrics import Judgement, roc_auc, row_losses
from services.training.domain.report.groups import groups

# Fewer rows say more of chance than of the model.
LEAST_ROWS = 30
_LEAST_SHARE = 0.01
_LEAST_OF_EACH_KIND = 10
# Enough for each slice that is shown; more would cost a large fit more than they tell.
MOST_ROWS = 30_000
_MOST_COLUMNS = 100
_MOST_SLICES = 30
# Losses that are this share of the largest apart are the same.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Slice:
    """Rows that have something in common.

    Args:
        column, value: what.
        rows: how many.
        metrics: value by name, over them.
        excess: how much worse their mean loss is than that of all other rows, in standard errors of the difference;
            above 3 is hardly chance.
    """

    column: str
    value: str
    rows: int
    metrics: dict[str, float]
    excess: float


def slices(judgement: Judgement, table: pa.Table, left_out: Collection[str] = ()) -> tuple[Slice, ...]:
    """Return the slices on which a model does worst, the worst first: by what is worse in them beyond chance.

    Of many rows so many are looked at, drawn evenly.

    Args:
        judgement: of the rows.
        table: the rows, normalised.
        left_out: columns that are no way to slice them.
    """
    if table.num_rows > MOST_ROWS:
        drawn = np.sort(np.random.default_rng(0).choice(table.num_rows, MOST_ROWS, replace=False))
        judgement, table = judgement.of(drawn), table.take(pa.array(drawn))
    left_out = {judgement.target.name, *left_out}
    names = [name for name in table.column_names if name not in left_out][:_MOST_COLUMNS]
    losses = row_losses(judgement)
    least = max(LEAST_ROWS, int(_LEAST_SHARE * table.num_rows))
    found = [
        (_excess(losses, rows), name, label, rows)
        for name in names
        for label, rows in groups(table.column(name))
        if least <= rows.sum() <= table.num_rows - least
    ]
    worst = sorted((part for part in found if part[0] > 0), key=lambda part: -part[0])[:_MOST_SLICES]
    return tuple(
        Slice(name, label, int(rows.sum()), _metrics(judgement, losses, rows), excess)
        for excess, name, label, rows in worst
    )


def _metrics(judgement: Judgement, losses: Array, rows: Array) -> dict[str, float]:
    part = judgement.of(np.flatnonzero(rows))
    metrics = part.scores().metrics
    if judgement.target.task == "regression":
        return {"mae": metrics["mae"], "rmse": metrics["rmse"], "bias": float((part.values - part.truth).mean())}
    kept = {"accuracy": metrics["accuracy"]}
    if part.probabilities is not None:
        kept["log_loss"] = float(losses[rows].mean())
        if judgement.target.task == "binary":
            positive = part.truth == 1
            kept["observed"] = float(positive.mean())
            kept["predicted"] = float(part.probabilities[:, 1].mean())
            area = roc_auc(positive, part.probabilities[:, 1])
            if area is not None and min(positive.sum(), (~positive).sum()) >= _LEAST_OF_EACH_KIND:
                kept["roc_auc"] = area
    return kept


def _excess(losses: Array, rows: Array) -> float:
    inside, outside = losses[rows], losses[~rows]
    error = float(np.sqrt(inside.var() / len(inside) + outside.var() / len(outside)))
    difference = float(inside.mean() - outside.mean())
    least = _ROUNDING * float(np.abs(losses).max())
    if error <= least:
        # Neither varies in itself, as where all rows of a slice are wrong and no other is: chance is what they would
        # differ by were they drawn from all rows.
        error = float(losses.std() * np.sqrt(1 / len(inside) + 1 / len(outside)))
    return difference / error if error > least else 0.0
