"""The way in: describe a table, fit a family on it or go on from a model, score."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.training.domain.families.bodies import Body
from services.training.domain.families.catalog import find_family, wants_classes
from services.training.domain.families.encoding import Encoded, Encoding
from services.training.domain.families.frame import Array, describe_columns, is_number_list, normalize
from services.training.domain.families.image.fit import fit_cnn
from services.training.domain.families.image.model import ImageModel
from services.training.domain.families.image.pixels import broken_images, named, readable
from services.training.domain.families.linear import LinearCore
from services.training.domain.families.logistic import fit_logistic
from services.training.domain.families.metrics import Judgement, Scores
from services.training.domain.families.model import (
    Core,
    Description,
    Model,
    Run,
    Settings,
    TrainedModel,
    load_model,
)
from services.training.domain.families.neural.mlp import MlpCore, fit_mlp
from services.training.domain.families.regression import fit_linear
from services.training.domain.families.schema import Schema
from services.training.domain.families.series.fit import fit_rnn
from services.training.domain.families.series.model import SeriesModel
from services.training.domain.families.series.split import latest_rows
from services.training.domain.families.series.steps import describe_series, series_steps
from services.training.domain.families.single_column import describe_single, row_texts
from services.training.domain.families.target import Target, describe_forecast, describe_target, target_values
from services.training.domain.families.text.columns import describe_texts, readings, task_of
from services.training.domain.families.text.fit import fit_transformer
from services.training.domain.families.text.model import TextModel
from services.training.domain.families.text.scoring import judge_texts
from services.training.domain.families.trees import TreesCore, fit_trees

CORES: dict[str, type[Core]] = {
    "linear_regression": LinearCore,
    "logistic_regression": LinearCore,
    "boosted_trees": TreesCore,
    "mlp": MlpCore,
}
HANDLE_UNKNOWN = ("ignore", "error")


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
    check_request(family, handle_unknown, base)
    table = normalize(table)
    if base is None and reads == "texts":
        return Schema(*describe_texts(table, target, settings), handle_unknown)
    if base is None and reads == "series":
        return Schema(describe_series(table, target), _series_target(table, target), handle_unknown)
    if base is None:
        goal = describe_target(table, target, classify=wants_classes(family, settings))
        if reads != "columns":
            return Schema(describe_single(table, target), goal, handle_unknown)
        most = int(settings["max_categories"])
        return Schema(describe_columns(table, target, most, knows_all=handle_unknown == "error"), goal, handle_unknown)
    if reads == "texts" and settings["task"] not in ("auto", own := task_of(base.columns, base.target)):
        raise InvalidArgument(f"the base model's task is {own}: leave task out", reason="BASE_MISMATCH")
    schema = Schema(base.columns, base.target, handle_unknown)
    check_classes(np.bincount(_classes(table, base.target), minlength=len(base.target.classes)), base.target)
    check(schema, table)
    return schema


def check_request(family: str, handle_unknown: str, base: Model | None) -> None:
    """Check what can be checked without rows.

    Raises:
        InvalidArgument: the rule for unknown categories is none, or the base is of another family.
    """
    if handle_unknown not in HANDLE_UNKNOWN:
        raise InvalidArgument(
            f"handle_unknown must be one of {', '.join(HANDLE_UNKNOWN)}, got {handle_unknown!r}",
            reason="BAD_HANDLE_UNKNOWN",
        )
    if base is not None and base.family != family:
        raise InvalidArgument(f"the base model is of {base.family}, not {family}", reason="FAMILY_MISMATCH")


def check(schema: Schema, table: pa.Table) -> None:
    """Check that rows can be scored by a model of a schema.

    Raises:
        InvalidArgument: a column lacks or does not convert, or holds what the model refuses; or so does the target.
    """
    table = normalize(table)
    if schema.is_single:
        readings(table, schema.columns)
    elif schema.is_series:
        series_steps(table, schema.columns)
    else:
        _encode(schema, table)
    target_values(table, schema.target)


def readable_rows(
    family: str, schema: Schema, table: pa.Table, settings: Settings, warn: Callable[[str], None] = lambda _: None
) -> pa.Table:
    """Return the rows whose images can be read, where these are images; others stay as they are.

    Args:
        family: of the model.
        schema: of the table.
        table: the rows.
        settings: whether to skip those that cannot be read.
        warn: told which are skipped.

    Raises:
        InvalidArgument: some cannot be read and are not to be skipped, or none can.
    """
    if find_family(family).reads != "images":
        return table
    is_readable = readable(row_texts(table, schema.columns))
    if is_readable.all():
        return table
    broken = np.flatnonzero(~is_readable).tolist()
    if settings["corrupt_images"] != "skip" or not is_readable.any():
        raise broken_images(broken)
    warn(f"{named(broken)}; they were skipped")
    return table.filter(pa.array(is_readable))


def hold_out(table: pa.Table, target: Target, seed: int, fraction: float = 0.1) -> tuple[pa.Table, pa.Table]:
    """Return the rows without, and those of, a held-out share; drawn by seed, from each class its share, order kept.

    One row at least is held out, and one row of each class at least stays. Of forecasts the last rows of each
    series are held out: rows beside each other hold the same steps.
    """
    if target.horizon:
        latest = latest_rows(table, target.name, fraction)
        if not latest.any():
            latest[-1:] = True
        return table.filter(pa.array(~latest)), table.filter(pa.array(latest))
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


def fit(
    family: str,
    schema: Schema,
    table: pa.Table,
    run: Run,
    base: Model | None = None,
    body: "Body | None" = None,
) -> Model:
    """Train a family on a table's rows; from a base, continue it; from a body, learn other labels.

    Args:
        family: its name.
        schema: as `describe` gave it.
        table: the training rows, target included.
        run: settings, seed, progress; its checkpoints and engine are for networks, other families are soon fitted anew.
        base: a model of the same family to go on from, with its columns and classes.
        body: of a network of the same family, that a new head is put on.

    Raises:
        InvalidArgument: the rows do not fit the schema, or the loss is no longer a number.
        Stopped: it was cancelled.
    """
    table = normalize(table)
    truth = target_values(table, schema.target)
    if family == "transformer":
        reader = base if isinstance(base, TextModel) else None
        encoder = None if isinstance(body, ImageModel) else body
        texts = readings(table, schema.columns)
        return fit_transformer(schema.columns, texts, truth, schema.target, run, reader, encoder)
    if family == "cnn":
        seer = base if isinstance(base, ImageModel) else None
        features = body if isinstance(body, ImageModel) else None
        images = row_texts(table, schema.columns)
        return fit_cnn(schema.columns, images, truth, schema.target, run, seer, features)
    if family == "rnn":
        follower = base if isinstance(base, SeriesModel) else None
        return fit_rnn(schema.columns, table, truth, schema.target, run, follower)
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
    if reads == "series":
        return SeriesModel.load(files)
    return ImageModel.load(files) if reads == "images" else load_model(files, CORES)


def evaluate(model: Model, table: pa.Table) -> Scores:
    """Score a model on a table's rows.

    Raises:
        InvalidArgument: the table lacks a column, or a class is unknown.
    """
    return judge(model, table)[0]


def judge(model: Model, table: pa.Table) -> tuple[Scores, Judgement | None]:
    """Return a model's scores on a table's rows, and its predictions beside the truth; None where it predicts none.

    Raises:
        InvalidArgument: as for `evaluate`.
    """
    if not table.num_rows:
        raise InvalidArgument("there is no row to score", reason="NO_ROWS")
    if isinstance(model, TextModel):
        return judge_texts(model, table)
    judgement = Judgement(model.predict(table), target_values(normalize(table), model.target), model.target)
    return judgement.scores(), judgement


def _series_target(table: pa.Table, target: str) -> Target:
    if target in table.column_names and is_number_list(table.column(target).type):
        return describe_forecast(table, target)
    return describe_target(table, target, classify=True)


def _encode(schema: Schema, table: pa.Table) -> Encoded:
    return Encoding(schema.columns).encode(table, refuse_unknown=schema.handle_unknown == "error")


def _classes(table: pa.Table, target: Target) -> Array:
    """Return (rows,) class indexes; none for a value."""
    truth = target_values(table, target)
    return truth if target.classes else np.zeros(0, dtype=np.int64)


def check_classes(class_rows: Array, target: Target) -> None:
    """Check that every class of a target occurs.

    Args:
        class_rows: (classes,) rows of each.
        target: what is predicted.

    Raises:
        InvalidArgument: one does not.
    """
    absent = np.flatnonzero(class_rows[: len(target.classes)] == 0)
    if len(absent):
        raise InvalidArgument(
            f"no row has class {target.classes[absent[0]]!r} of {target.name!r}, which the base model knows: every "
            "class must occur",
            reason="CLASS_ABSENT",
        )
