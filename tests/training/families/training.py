"""Trains as a job does: describe, hold out, fit; and tables to train on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.model import Model, Progress, Run, TrainedModel

CREDIT = Path(__file__).parents[3] / "examples" / "credit" / "german_credit.csv"
# A twentieth of the default's rounds: enough to be wrong, were anything wrong.
FEW_TREES: dict[str, object] = {"n_estimators": 10, "min_child_samples": 2}


@dataclass
class Trained:
    """A model, the rows it did not see, and what was told meanwhile."""

    model: TrainedModel
    held_out: pa.Table
    told: list[Progress] = field(default_factory=list)


def train(
    family: str,
    table: pa.Table,
    target: str,
    hyperparameters: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    handle_unknown: str = "ignore",
    base: TrainedModel | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> Trained:
    told: list[Progress] = []
    model, held_out = train_any(
        family,
        table,
        target,
        hyperparameters,
        seed=seed,
        handle_unknown=handle_unknown,
        base=base,
        is_cancelled=is_cancelled,
        report=told.append,
    )
    assert isinstance(model, TrainedModel)
    return Trained(model, held_out, told)


def train_any(
    family: str,
    table: pa.Table,
    target: str,
    hyperparameters: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    handle_unknown: str = "ignore",
    base: Model | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda _: None,
) -> tuple[Model, pa.Table]:
    """Train a family, whatever it reads; return its model and the rows it did not see."""
    settings = resolve_hyperparameters(family, hyperparameters or {})
    schema = fitting.describe(family, table, target, settings, handle_unknown, base)
    rows, held_out = fitting.hold_out(table, schema.target, seed)
    return fitting.fit(family, schema, rows, Run(settings, seed, report, is_cancelled), base), held_out


def credit() -> pa.Table:
    return pyarrow.csv.read_csv(CREDIT)


def mixed(rows: int = 200, seed: int = 0) -> pa.Table:
    """Return every kind of column, with missing values, and one target of every kind."""
    draw = np.random.default_rng(seed)
    size = draw.normal(50.0, 20.0, rows)
    count = draw.integers(0, 9, rows)
    is_new = draw.random(rows) < 0.4
    town = draw.choice(["Bern", "Köln", "北京", "a,b"], rows)
    value = 3.0 * size + 10.0 * count + 25.0 * is_new + 40.0 * (town == "Bern") + draw.normal(0.0, 5.0, rows)
    gaps = draw.random((4, rows)) < 0.1
    return pa.table(
        {
            "size": pa.array(size, mask=gaps[0]),
            "count": pa.array(count),
            "count_gaps": pa.array(count, mask=gaps[1]),
            "is_new": pa.array(is_new),
            "is_new_gaps": pa.array(is_new, mask=gaps[2]),
            "town": pa.array(town.tolist()),
            "town_gaps": pa.array(town.tolist(), mask=gaps[3]),
            "price": pa.array([float(round(item)) for item in size]).cast(pa.decimal128(10, 2)),
            "value": pa.array(value),
            "is_dear": pa.array(value > np.median(value)),
            "grade": pa.array(np.digitize(value, np.quantile(value, [0.3, 0.6]))),
            "label": pa.array(np.array(["low", "mid", "high"])[np.digitize(value, np.quantile(value, [0.3, 0.6]))]),
        }
    )


def inputs_and(table: pa.Table, target: str) -> pa.Table:
    """Return the inputs of `mixed` and one of its targets."""
    return table.select([*table.column_names[:8], target])
