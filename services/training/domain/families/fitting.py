"""The way in: fit a family on a table, continue from a model, score, and measure parity."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.training.domain.families.catalog import find_family
from services.training.domain.families.encoding import Encoding
from services.training.domain.families.frame import Array, describe_columns, describe_target, target_values
from services.training.domain.families.linear import LinearCore, fit_linear, fit_logistic
from services.training.domain.families.metrics import Scores, score
from services.training.domain.families.model import Core, IsCancelled, Report, TrainedModel, load_model
from services.training.domain.families.trees import TreesCore, fit_trees

CORES: dict[str, type[Core]] = {
    "linear_regression": LinearCore,
    "logistic_regression": LinearCore,
    "boosted_trees": TreesCore,
}
HANDLE_UNKNOWN = ("ignore", "error")
_PARITY_ROWS = 1000
_PARITY_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far an export strays from its model on real rows.

    Args:
        max_difference: largest over rows and outputs: absolute for probabilities, for values relative to
            max(1, |value|).
        tolerance: what is acceptable.
        rows: compared.
        label_mismatches: rows whose label differs.
    """

    max_difference: float
    tolerance: float
    rows: int
    label_mismatches: int


def fit(
    family: str,
    table: pa.Table,
    target: str,
    hyperparameters: Mapping[str, int | float | str | bool],
    seed: int,
    handle_unknown: str,
    report: Report,
    is_cancelled: IsCancelled,
    base: TrainedModel | None = None,
) -> TrainedModel:
    """Train a family on a table's rows; from a base, continue it.

    Args:
        family: its name.
        table: the training rows, target included.
        target: the column to predict.
        hyperparameters: resolved.
        seed: of every random draw.
        handle_unknown: ignore or error.
        report: told how far it is.
        is_cancelled: asked between steps.
        base: a model of the same family to go on from, with its columns and classes.

    Raises:
        InvalidArgument: the table cannot be learned from; the message says what to do.
        Stopped: it was cancelled.
    """
    find_family(family)
    if handle_unknown not in HANDLE_UNKNOWN:
        raise InvalidArgument(
            f"handle_unknown must be one of {', '.join(HANDLE_UNKNOWN)}, got {handle_unknown!r}",
            reason="BAD_HANDLE_UNKNOWN",
        )
    if base is not None and base.family != family:
        raise InvalidArgument(f"the base model is of {base.family}, not {family}", reason="FAMILY_MISMATCH")
    goal = base.target if base else describe_target(table, target, classify=_wants_classes(family, hyperparameters))
    columns = base.columns if base else describe_columns(table, target)
    encoding = Encoding(columns)
    encoded = encoding.encode(table)
    truth = target_values(table, goal)
    core: Core
    if family == "boosted_trees":
        trees = base.core if base and isinstance(base.core, TreesCore) else None
        core = fit_trees(encoding, encoded, truth, goal, hyperparameters, seed, report, is_cancelled, trees)
    else:
        linear = base.core if base and isinstance(base.core, LinearCore) else None
        fit_core = fit_linear if family == "linear_regression" else fit_logistic
        core = fit_core(encoding, encoded, truth, hyperparameters, seed, report, is_cancelled, linear)
    return TrainedModel(family, dict(hyperparameters), columns, goal, handle_unknown, core)


def load(files: dict[str, bytes]) -> TrainedModel:
    """Return the model whose state some files hold."""
    return load_model(files, CORES)


def evaluate(model: TrainedModel, table: pa.Table) -> Scores:
    """Score a model on a table's rows.

    Raises:
        InvalidArgument: the table lacks a column, or a class is unknown.
    """
    return score(model.predict(table), target_values(table, model.target), model.target)


def hold_out(table: pa.Table, seed: int, fraction: float = 0.1) -> tuple[pa.Table, pa.Table]:
    """Return the rows without, and those of, a held-out share; drawn by seed, order kept."""
    count = max(1, round(table.num_rows * fraction)) if table.num_rows > 1 else 0
    chosen = np.zeros(table.num_rows, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(table.num_rows)[:count]] = True
    return table.filter(pa.array(~chosen)), table.filter(pa.array(chosen))


def measure_parity(model: TrainedModel, onnx_model: bytes, table: pa.Table) -> Parity:
    """Compare a model with its export on a table's first rows."""
    rows = table.slice(0, _PARITY_ROWS)
    expected = model.predict(rows)
    outputs = run_onnx(model, onnx_model, rows)
    if model.target.task == "regression":
        found = outputs["prediction"].reshape(-1)
        difference = np.abs(found - expected.values) / np.maximum(1.0, np.abs(expected.values))
        return Parity(float(difference.max(initial=0.0)), _PARITY_TOLERANCE, rows.num_rows, 0)
    assert expected.probabilities is not None
    found = outputs["probabilities"]
    mismatches = int((found.argmax(axis=1) != expected.values).sum())
    difference = float(np.abs(found - expected.probabilities).max(initial=0.0))
    return Parity(difference, _PARITY_TOLERANCE, rows.num_rows, mismatches)


def run_onnx(model: TrainedModel, onnx_model: bytes, table: pa.Table) -> dict[str, Array]:
    """Return the outputs of an exported model for a table's raw columns."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    inputs = {column.name: _raw(table.column(column.name), column.datatype) for column in model.columns}
    return dict(zip(names, session.run(names, inputs), strict=True))


def _raw(column: pa.ChunkedArray, datatype: str) -> Array:
    if datatype == "BYTES":
        return np.array(column.fill_null("").to_pylist(), dtype=object).reshape(-1, 1)
    if datatype == "BOOL":
        return np.asarray(column.to_numpy()).astype(bool).reshape(-1, 1)
    if datatype == "INT64":
        return np.asarray(column.to_numpy()).astype(np.int64).reshape(-1, 1)
    plain = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
    return np.asarray(plain.cast(pa.float64(), safe=False).to_numpy()).reshape(-1, 1)


def _wants_classes(family: str, hyperparameters: Mapping[str, object]) -> bool | None:
    if family == "linear_regression":
        return False
    if family == "logistic_regression":
        return True
    return {"auto": None, "classification": True, "regression": False}[str(hyperparameters["task"])]
