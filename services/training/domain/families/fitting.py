"""The way in: describe a table, fit a family on it or go on from a model, score."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.training.domain.families.catalog import find_family
from services.training.domain.families.checkpoints import Checkpoints, NoCheckpoints
from services.training.domain.families.encoding import Encoded, Encoding
from services.training.domain.families.engine import EmbeddedEngine, Engine
from services.training.domain.families.frame import Array, Column, describe_columns, normalize
from services.training.domain.families.image.fit import fit_cnn
from services.training.domain.families.image.model import ImageModel
from services.training.domain.families.image.pixels import broken_images, readable
from services.training.domain.families.linear import LinearCore
from services.training.domain.families.logistic import fit_logistic
from services.training.domain.families.metrics import Scores, score
from services.training.domain.families.model import (
    Core,
    Description,
    IsCancelled,
    Model,
    Report,
    Run,
    Settings,
    TrainedModel,
    load_model,
)
from services.training.domain.families.neural.mlp import MlpCore, fit_mlp
from services.training.domain.families.regression import fit_linear
from services.training.domain.families.single_column import describe_single, row_texts
from services.training.domain.families.target import Target, describe_target, target_values
from services.training.domain.families.text.fit import fit_transformer
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.trees import TreesCore, fit_trees

CORES: dict[str, type[Core]] = {
    "linear_regression": LinearCore,
    "logistic_regression": LinearCore,
    "boosted_trees": TreesCore,
    "mlp": MlpCore,
}
HANDLE_UNKNOWN = ("ignore", "error")
# Of the rows that a trial may see, what it is judged by.
_TRIAL_SHARE = 0.2


@dataclass(frozen=True)
class Schema:
    """What a model is to take and predict.

    Args:
        columns: the inputs.
        target: what is predicted.
        handle_unknown: what an unknown category does at prediction: ignore or error.
    """

    columns: tuple[Column, ...]
    target: Target
    handle_unknown: str

    @property
    def is_single(self) -> bool:
        """Whether its input is one column of texts or images."""
        return self.columns[0].kind == "text"


def describe(
    family: str,
    table: pa.Table,
    target: str,
    settings: Settings,
    handle_unknown: str = "ignore",
    base: Model | None = None,
) -> Schema:
    """Return what a family would learn from a table; from a base, what that has learned.

    Over all rows, those that will be held out included: a value that lacks in one of them may lack at prediction, too.

    Raises:
        InvalidArgument: the table cannot be learned from; the message says what to do.
    """
    reads = find_family(family).reads
    if handle_unknown not in HANDLE_UNKNOWN:
        raise InvalidArgument(
            f"handle_unknown must be one of {', '.join(HANDLE_UNKNOWN)}, got {handle_unknown!r}",
            reason="BAD_HANDLE_UNKNOWN",
        )
    table = normalize(table)
    if base is None:
        goal = describe_target(table, target, classify=_wants_classes(family, settings))
        if reads != "columns":
            return Schema(describe_single(table, target), goal, handle_unknown)
        most = int(settings["max_categories"])
        return Schema(describe_columns(table, target, most, knows_all=handle_unknown == "error"), goal, handle_unknown)
    if base.family != family:
        raise InvalidArgument(f"the base model is of {base.family}, not {family}", reason="FAMILY_MISMATCH")
    schema = Schema(base.columns, base.target, handle_unknown)
    _check_classes(target_values(table, base.target), base.target)
    check(schema, table)
    return schema


def check(schema: Schema, table: pa.Table) -> None:
    """Check that rows can be scored by a model of a schema.

    Raises:
        InvalidArgument: a column lacks or does not convert, or holds what the model refuses; or so does the target.
    """
    table = normalize(table)
    if schema.is_single:
        row_texts(table, schema.columns)
    else:
        _encode(schema, table)
    target_values(table, schema.target)


def readable_rows(family: str, schema: Schema, table: pa.Table, settings: Settings) -> pa.Table:
    """Return the rows whose images can be read, where these are images; others stay as they are.

    Raises:
        InvalidArgument: some cannot be read and are not to be skipped, or none can.
    """
    if find_family(family).reads != "images":
        return table
    is_readable = readable(row_texts(table, schema.columns))
    if is_readable.all():
        return table
    if settings["corrupt_images"] != "skip" or not is_readable.any():
        raise broken_images(np.flatnonzero(~is_readable).tolist())
    return table.filter(pa.array(is_readable))


def hold_out(table: pa.Table, target: Target, seed: int, fraction: float = 0.1) -> tuple[pa.Table, pa.Table]:
    """Return the rows without, and those of, a held-out share; drawn by seed, from each class its share, order kept.

    One row at least is held out, and one row of each class at least stays.
    """
    draw = np.random.default_rng(seed)
    chosen = np.zeros(table.num_rows, dtype=bool)
    groups = [np.arange(table.num_rows)]
    if target.classes:
        classes = target_values(normalize(table), target)
        groups = [np.flatnonzero(classes == index) for index in range(len(target.classes))]
    for group in groups:
        chosen[draw.permutation(group)[: round(len(group) * fraction)]] = True
    if not chosen.any():
        chosen[draw.permutation(max(groups, key=len))[0]] = True
    return table.filter(pa.array(~chosen)), table.filter(pa.array(chosen))


def trial_rows(table: pa.Table, target: Target, seed: int, *, judges_apart: bool) -> tuple[pa.Table, pa.Table]:
    """Return the rows that a study's trial learns from, and those that judge it.

    Args:
        table: the study's rows.
        target: what is predicted.
        seed: of the study.
        judges_apart: whether the study's best is judged by rows of another dataset; else by a share of these, which no
            trial may see.
    """
    left = table if judges_apart else hold_out(table, target, seed)[0]
    return hold_out(left, target, seed + 1, _TRIAL_SHARE)


def fit(
    family: str,
    schema: Schema,
    table: pa.Table,
    settings: Settings,
    seed: int,
    report: Report,
    is_cancelled: IsCancelled,
    base: Model | None = None,
    threads: int = 1,
    checkpoints: Checkpoints | None = None,
    engine: Engine | None = None,
) -> Model:
    """Train a family on a table's rows; from a base, continue it.

    Args:
        family: its name.
        schema: as `describe` gave it.
        table: the training rows, target included.
        settings: hyperparameters, resolved.
        seed: of every random draw.
        report: told how far it is.
        is_cancelled: asked between steps.
        base: a model of the same family to go on from, with its columns and classes.
        threads: to compute with.
        checkpoints: what networks keep, and go on from; other families are soon fitted anew.
        engine: where networks are trained; other families are fitted here.

    Raises:
        InvalidArgument: the rows do not fit the schema, or the loss is no longer a number.
        Stopped: it was cancelled.
    """
    table = normalize(table)
    truth = target_values(table, schema.target)
    run = Run(settings, seed, report, is_cancelled, threads, checkpoints or NoCheckpoints(), engine or EmbeddedEngine())
    if family == "transformer":
        reader = base if isinstance(base, TextModel) else None
        return fit_transformer(schema.columns, row_texts(table, schema.columns), truth, schema.target, run, reader)
    if family == "cnn":
        seer = base if isinstance(base, ImageModel) else None
        return fit_cnn(schema.columns, row_texts(table, schema.columns), truth, schema.target, run, seer)
    return _fit_columns(family, schema, table, truth, run, base if isinstance(base, TrainedModel) else None)


def _fit_columns(
    family: str, schema: Schema, table: pa.Table, truth: Array, run: Run, base: TrainedModel | None
) -> TrainedModel:
    encoding, encoded = Encoding(schema.columns), _encode(schema, table)
    core: Core
    if family == "boosted_trees":
        trees = base.core if base and isinstance(base.core, TreesCore) else None
        core = fit_trees(encoding, encoded, truth, schema.target, run, trees)
    elif family == "mlp":
        perceptron = base.core if base and isinstance(base.core, MlpCore) else None
        core = fit_mlp(encoding, encoded, truth, schema.target, run, perceptron)
    else:
        linear = base.core if base and isinstance(base.core, LinearCore) else None
        if family == "linear_regression":
            core = fit_linear(encoding, encoded, truth, run, linear)
        else:
            core = fit_logistic(encoding, encoded, truth, len(schema.target.classes), run, linear)
    return TrainedModel(family, dict(run.settings), schema.columns, schema.target, schema.handle_unknown, core)


def load(files: dict[str, bytes]) -> Model:
    """Return the model whose state some files hold."""
    reads = find_family(Description.read(files).family).reads
    if reads == "texts":
        return TextModel.load(files)
    return ImageModel.load(files) if reads == "images" else load_model(files, CORES)


def evaluate(model: Model, table: pa.Table) -> Scores:
    """Score a model on a table's rows.

    Raises:
        InvalidArgument: the table lacks a column, or a class is unknown.
    """
    if not table.num_rows:
        raise InvalidArgument("there is no row to score", reason="NO_ROWS")
    return score(model.predict(table), target_values(normalize(table), model.target), model.target)


def _encode(schema: Schema, table: pa.Table) -> Encoded:
    return Encoding(schema.columns).encode(table, refuse_unknown=schema.handle_unknown == "error")


def _check_classes(truth: Array, target: Target) -> None:
    absent = sorted(set(range(len(target.classes))) - set(truth.tolist()))
    if absent:
        raise InvalidArgument(
            f"no row has class {target.classes[absent[0]]!r} of {target.name!r}, which the base model knows: every "
            "class must occur",
            reason="CLASS_ABSENT",
        )


def _wants_classes(family: str, settings: Mapping[str, object]) -> bool | None:
    if family == "linear_regression":
        return False
    if family in ("logistic_regression", "transformer", "cnn"):
        return True
    return {"auto": None, "classification": True, "regression": False}[str(settings["task"])]
