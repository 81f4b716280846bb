"""The way in for tables larger than memory: describe, set aside what judges, fit."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.catalog import wants_classes
from services.training.domain.families.frame import Array, ColumnsSummary
from services.training.domain.families.linear import LinearCore
from services.training.domain.families.model import Core, Model, Run, Settings, TrainedModel
from services.training.domain.families.neural.mlp import MlpCore
from services.training.domain.families.schema import Schema
from services.training.domain.families.streamed.budget import STREAMING, Budget
from services.training.domain.families.streamed.draws import RARE_ROWS, Division, Draw, Purpose
from services.training.domain.families.streamed.linear import fit_linear, fit_logistic
from services.training.domain.families.streamed.parted import Measured, Parted
from services.training.domain.families.streamed.perceptron import fit_mlp
from services.training.domain.families.streamed.rows import RowSource, pieces
from services.training.domain.families.streamed.shuffled import Shuffled
from services.training.domain.families.streamed.trees import fit_trees
from services.training.domain.families.target import TargetSummary
from services.training.domain.families.trial import JUDGED_SHARE

HELD_OUT_SHARE = 0.1
_ASIDE = 0.1


@dataclass(frozen=True)
class Plan:
    """What is to be learned, and how.

    Args:
        family: its name.
        target: the column to predict.
        settings: hyperparameters, resolved.
        seed: of every random draw.
        handle_unknown: what an unknown category does at prediction: ignore or error.
        base: a model of the same family to go on from.
        is_trial: whether it is one of a study's: the rows that judge the study's best are left alone.
        holds_out: whether rows of the table judge the end; else those of another do, and none are left alone.
    """

    family: str
    target: str
    settings: Settings
    seed: int
    handle_unknown: str = "ignore"
    base: Model | None = None
    is_trial: bool = False
    holds_out: bool = True


@dataclass(frozen=True)
class Prepared:
    """A fit that can begin.

    Args:
        schema: what it learns from.
        held_out: rows that judge; None where others do.
        fit: trains.
    """

    schema: Schema
    held_out: pa.Table | None
    fit: Callable[[Run], Model]


def can_stream(family: str, base: Model | None) -> bool:
    """Return whether a family can learn from a table that does not fit; from a base, go on."""
    return family in STREAMING and not (family == "boosted_trees" and base is not None)


def check_streams(family: str, memory_bytes: int, base: Model | None) -> None:
    """Check that a family can learn from a table that does not fit.

    Raises:
        InvalidArgument: it cannot; the message says which can.
    """
    if can_stream(family, base):
        return
    what = "a fine-tune of boosted_trees" if family in STREAMING else family
    raise InvalidArgument(
        f"the table is larger than the {memory_bytes >> 20} MiB of memory that the job declares, and {what} holds it "
        f"whole, several times: declare more; without a base {', '.join(STREAMING)} learn from larger ones",
        reason="TABLE_TOO_LARGE",
    )


def prepare(plan: Plan, source: RowSource, budget: Budget) -> Prepared:
    """Describe a table in two passes over it, and gather the rows that judge.

    Raises:
        InvalidArgument: the table cannot be learned from, or the family does not stream; the message says what to do.
    """
    check_streams(plan.family, budget.memory_bytes, plan.base)
    fitting.check_request(plan.family, plan.handle_unknown, plan.base)
    schema, common, row_bytes = _described(plan, source)
    draws = _draws(plan, schema, budget, source.num_rows, row_bytes)
    parted = Parted(source, schema, Division(draws, common))
    block_rows, window_blocks = budget.blocks(parted.encoded_bytes)
    gathered: dict[int, list[pa.Table]] = {
        number: [] for number, draw in enumerate(draws, start=1) if draw.purpose is not _hidden(plan)
    }
    measured = parted.measure(block_rows, gathered)
    if not np.isfinite(measured.truth.spread).all():
        raise InvalidArgument(
            f"the target {schema.target.name!r} holds numbers beyond 1e150: scale it, or declare memory for the table",
            reason="NUMBERS_TOO_LARGE",
        )
    if plan.base is not None:
        fitting.check_classes(measured.class_rows, schema.target)
    found = {draws[number - 1].purpose: pa.concat_tables(tables) for number, tables in gathered.items() if tables}
    aside = found.pop(Purpose.ASIDE, None)
    if (plan.holds_out or plan.is_trial) and not found:
        raise InvalidArgument(
            f"none of the {source.num_rows:,} rows could be kept to judge the model by in "
            f"{budget.part_bytes >> 20} MiB, a sixteenth of what the job declares: declare more memory",
            reason="TABLE_TOO_LARGE",
        )
    shuffled = Shuffled(parted, block_rows, measured.block_counts, window_blocks, plan.seed)
    held_out = next(iter(found.values()), None)
    return Prepared(schema, held_out, lambda run: _fit(plan, parted, measured, shuffled, aside, run, budget))


def _described(plan: Plan, source: RowSource) -> tuple[Schema, Array | None, float]:
    """Return what is learned from, which classes have rows enough to be drawn from, and the bytes of a row."""
    base = plan.base
    name = base.target.name if base else plan.target
    wanted = bool(base.target.classes) if base else wants_classes(plan.family, plan.settings)
    target, columns = TargetSummary(name, classify=wanted), ColumnsSummary(name)
    size = 0
    for _, table in pieces(source):
        target.update(table)
        if base is None:
            columns.update(table)
        size += table.nbytes
    if base is not None:
        schema = Schema(base.columns, base.target, plan.handle_unknown)
    else:
        most, knows_all = int(plan.settings["max_categories"]), plan.handle_unknown == "error"
        goal = target.target()
        schema = Schema(columns.columns(most, knows_all=knows_all), goal, plan.handle_unknown)
    rows = target.class_rows()
    common = np.array([rows.get(label, 0) >= RARE_ROWS for label in schema.target.classes])
    return schema, common if schema.target.classes else None, size / max(source.num_rows, 1)


def _draws(plan: Plan, schema: Schema, budget: Budget, rows: int, row_bytes: float) -> tuple[Draw, ...]:
    """Return which rows do not train: as many as always, or as few as fit."""
    draws = []
    if plan.is_trial and plan.holds_out:
        # As many as any job of this seed would hold out, whatever memory it declares.
        draws.append(Draw(Purpose.HELD_OUT, plan.seed, HELD_OUT_SHARE))
    if plan.is_trial:
        draws.append(Draw(Purpose.TRIAL, plan.seed, budget.share(JUDGED_SHARE, rows, row_bytes)))
    elif plan.holds_out:
        draws.append(Draw(Purpose.HELD_OUT, plan.seed, budget.share(HELD_OUT_SHARE, rows, row_bytes)))
    if _sets_aside(plan, schema):
        features = 2 * len(schema.columns) + sum(len(column.categories) for column in schema.columns)
        row_bytes = max(row_bytes, 8.0 * features)
        draws.append(Draw(Purpose.ASIDE, plan.seed, budget.share(_ASIDE, rows, row_bytes)))
    return tuple(draws)


def _hidden(plan: Plan) -> Purpose | None:
    """Return which of the draws nobody looks at."""
    return Purpose.HELD_OUT if plan.is_trial else None


def _sets_aside(plan: Plan, schema: Schema) -> bool:
    """Return whether some rows decide when to stop, or how probabilities are calibrated."""
    calibrates = bool(schema.target.classes) and plan.settings.get("calibration") == "on"
    return bool(plan.settings.get("early_stopping")) or calibrates


def _fit(
    plan: Plan,
    parted: Parted,
    measured: Measured,
    shuffled: Shuffled,
    aside: pa.Table | None,
    run: Run,
    budget: Budget,
) -> TrainedModel:
    base = plan.base.core if isinstance(plan.base, TrainedModel) else None
    linear = base if isinstance(base, LinearCore) else None
    core: Core
    if plan.family == "boosted_trees":
        core = fit_trees(parted, measured, aside, run, budget)
    elif plan.family == "mlp":
        perceptron = base if isinstance(base, MlpCore) else None
        core = fit_mlp(parted, measured, shuffled, aside, run, budget, perceptron)
    elif plan.family == "linear_regression":
        core = fit_linear(parted, measured, shuffled, run, budget, linear)
    else:
        core = fit_logistic(parted, measured, run, budget, linear)
    schema = parted.schema
    return TrainedModel(plan.family, dict(run.settings), schema.columns, schema.target, schema.handle_unknown, core)
