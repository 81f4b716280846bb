"""Fits over rows that stream learn what fits in memory do, and end the same however often they are cut."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.checkpoints import Checkpoints, NoCheckpoints
from services.training.domain.families.model import Model, Progress, Run, Stopped, TrainedModel
from services.training.domain.families.neural.mlp import MlpCore
from services.training.domain.families.streamed.budget import Budget
from services.training.domain.families.streamed.fit import Plan, Prepared, can_stream, prepare
from services.training.domain.families.streamed.rows import TableRows
from tests.training.families.neural.test_checkpoints import Kept

SMALL = Budget(1 << 20)
FEW_PASSES: dict[str, object] = {"epochs": 3, "batch_size": 32, "hidden_units": 16, "learning_rate": 0.01}


def _table(rows: int = 4000, seed: int = 0) -> pa.Table:
    """Return rows sorted by the target: what is not shuffled well is learned badly."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, 3))
    town = draw.choice(["Bern", "Genf", "Chur"], rows)
    total = x @ [1.0, -2.0, 0.5] + 2.0 * (town == "Bern") + 0.3 * draw.standard_normal(rows)
    order = np.argsort(total)
    gaps = draw.random(rows) < 0.1
    table = {f"x{place}": pa.array(x[order, place], mask=gaps if place == 2 else None) for place in range(3)}
    label = np.digitize(total[order], [-1.0, 1.0])
    return pa.table(
        {
            **table,
            "town": town[order].tolist(),
            "value": total[order],
            "is_large": total[order] > 0,
            "label": np.array(["low", "mid", "high"])[label].tolist(),
        }
    )


def _inputs_and(target: str, table: pa.Table | None = None) -> pa.Table:
    table = _table() if table is None else table
    return table.select(["x0", "x1", "x2", "town", target])


@dataclass
class CountedRows:
    """Rows that know how many of them were read."""

    table: pa.Table
    read: int = field(default=0)

    @property
    def num_rows(self) -> int:
        return int(self.table.num_rows)

    def batches(self, first_row: int = 0, most_rows: int = 0) -> Iterator[pa.RecordBatch]:
        for batch in TableRows(self.table, 500).batches(first_row, most_rows):
            self.read += batch.num_rows
            yield batch


def _prepared(
    family: str, table: pa.Table, given: dict[str, object], *, budget: Budget = SMALL, seed: int = 1, **plan: Any
) -> tuple[Prepared, CountedRows, dict[str, int | float | str | bool]]:
    settings = resolve_hyperparameters(family, given)
    source = CountedRows(table)
    wanted = Plan(family, table.column_names[-1], settings, seed, **plan)
    return prepare(wanted, source, budget), source, settings


def _fit(
    family: str,
    table: pa.Table,
    given: dict[str, object],
    told: list[Progress] | None = None,
    checkpoints: Checkpoints | None = None,
    budget: Budget = SMALL,
    **plan: Any,
) -> Model:
    prepared, _, settings = _prepared(family, table, given, budget=budget, **plan)
    report = told.append if told is not None else lambda _: None
    return prepared.fit(Run(settings, 1, report, lambda: False, 1, checkpoints or NoCheckpoints()))


def _in_memory(family: str, table: pa.Table, given: dict[str, object]) -> Model:
    settings = resolve_hyperparameters(family, given)
    schema = fitting.describe(family, table, table.column_names[-1], settings)
    return fitting.fit(family, schema, table, Run(settings, 1, lambda _: None, lambda: False))


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_least_squares_by_one_pass_is_that_of_all_rows(l2: float) -> None:
    table = _inputs_and("value")
    streamed, whole = (
        model.predict(table).values
        for model in (
            _fit("linear_regression", table, {"l2": l2}, holds_out=False),
            _in_memory("linear_regression", table, {"l2": l2}),
        )
    )
    assert np.abs(streamed - whole).max() < 1e-9


@pytest.mark.parametrize(("target", "given"), [("is_large", {}), ("label", {"class_weight": "balanced"})])
def test_logistic_regression_over_passes_is_that_of_all_rows(target: str, given: dict[str, object]) -> None:
    table = _inputs_and(target)
    streamed = _fit("logistic_regression", table, given, holds_out=False).predict(table).probabilities
    whole = _in_memory("logistic_regression", table, given).predict(table).probabilities
    assert streamed is not None
    assert np.abs(streamed - whole).max() < 1e-4


@pytest.mark.parametrize(
    ("family", "target", "given", "metric"),
    [
        ("boosted_trees", "value", {"n_estimators": 30}, "r2"),
        ("boosted_trees", "label", {"n_estimators": 30, "calibration": "on", "early_stopping": 5}, "accuracy"),
        ("linear_regression", "value", {"epochs": 5, "batch_size": 32}, "r2"),
        ("mlp", "value", FEW_PASSES, "r2"),
        ("mlp", "label", {**FEW_PASSES, "early_stopping": 2, "class_weight": "balanced"}, "accuracy"),
    ],
)
def test_quality_is_that_of_a_fit_in_memory(family: str, target: str, given: dict[str, object], metric: str) -> None:
    table, new = _inputs_and(target), _inputs_and(target, _table(seed=9))
    streamed, whole = (fitting.evaluate(fit(family, table, given), new).metrics[metric] for fit in (_fit, _in_memory))
    assert streamed > whole - 0.02


def test_same_rows_and_seed_give_the_same_files() -> None:
    table = _inputs_and("is_large")
    for family, given in (("boosted_trees", {"n_estimators": 5, "subsample": 0.5}), ("mlp", FEW_PASSES)):
        assert _fit(family, table, given).files() == _fit(family, table, given).files()  # type: ignore[arg-type]


def test_rows_that_judge_are_not_learned_from_and_bounded() -> None:
    table = _inputs_and("label", _table(60_000))
    prepared, source, _ = _prepared("logistic_regression", table, {})
    assert source.read == 2 * table.num_rows
    assert prepared.held_out is not None
    assert 0 < prepared.held_out.nbytes < 2 * SMALL.part_bytes
    # Each class has its share of them, as of all rows.
    shares = [_shares(rows.column("label")) for rows in (table, prepared.held_out)]
    assert all(abs(shares[0][label] - shares[1][label]) < 0.02 for label in shares[0])
    trial, _, _ = _prepared("logistic_regression", table, {}, is_trial=True)
    assert trial.held_out is not None
    values = [set(rows.column("x0").to_pylist()) for rows in (trial.held_out, prepared.held_out)]
    assert not values[0] & values[1]


def _shares(column: pa.ChunkedArray) -> dict[str, float]:
    return {item["values"]: item["counts"] / len(column) for item in column.value_counts().to_pylist()}


def test_trees_learn_from_as_many_rows_as_fit_and_say_so() -> None:
    table, warnings = _inputs_and("value", _table(40_000)), list[str]()
    prepared, _, settings = _prepared("boosted_trees", table, {"n_estimators": 20, "learning_rate": 0.2})
    model = prepared.fit(Run(settings, 1, lambda _: None, lambda: False, warn=warnings.append))
    (warning,) = warnings
    assert "of 35,975 rows, as many as fit into the memory declared" in warning
    assert fitting.evaluate(model, table).metrics["r2"] > 0.8


@pytest.mark.parametrize("stop_after", [1, 70, 130, 250])
def test_network_that_was_cut_ends_the_same_and_rereads_little(stop_after: int) -> None:
    table = _inputs_and("is_large")
    given = {**FEW_PASSES, "dropout": 0.3, "early_stopping": 3}
    whole = _fit("mlp", table, given)
    prepared, _, settings = _prepared("mlp", table, given)
    cut = Kept()
    with pytest.raises(Stopped):
        prepared.fit(Run(settings, 1, lambda _: None, lambda: len(cut.kept) >= stop_after, 1, cut))
    # What goes on knows nothing but the checkpoint: it describes and divides the rows again.
    again, source, _ = _prepared("mlp", table, given)
    before = source.read
    resumed = again.fit(Run(settings, 1, lambda _: None, lambda: False, 1, Kept(cut.kept[-1])))
    assert resumed.files() == whole.files()
    # 3600 rows train, 32 a batch: blocks of a window and no more are read of what was done.
    left = 3 * table.num_rows - 32 * (len(cut.kept) - 1) * table.num_rows / 3600
    assert source.read - before < left + table.num_rows


@pytest.mark.parametrize("family", ["logistic_regression", "mlp"])
def test_fine_tune_goes_on_from_its_base(family: str) -> None:
    table = _inputs_and("is_large")
    given: dict[str, object] = FEW_PASSES if family == "mlp" else {}
    base = _in_memory(family, table, given)
    tuned = _fit(family, table, given, base=base)
    assert tuned.columns == base.columns
    assert fitting.evaluate(tuned, table).metrics["accuracy"] > 0.9
    small = table.filter(pa.compute.equal(table.column("is_large"), True))
    with pytest.raises(InvalidArgument, match="every class must occur"):
        _prepared(family, small, given, base=base)


def test_fine_tune_of_rows_that_stream_keeps_what_they_do_not_show() -> None:
    table = _inputs_and("value")
    base = _in_memory("mlp", table, FEW_PASSES)
    shown = table.filter(pa.compute.equal(table.column("town"), "Bern"))
    tuned = _fit("mlp", shown, {**FEW_PASSES, "weight_decay": 0.0}, base=base)
    assert isinstance(base, TrainedModel)
    assert isinstance(tuned, TrainedModel)
    assert isinstance(base.core, MlpCore)
    assert isinstance(tuned.core, MlpCore)
    before, after = base.core.first.category_weights, tuned.core.first.category_weights
    others = [place for place, town in enumerate(base.columns[3].categories) if town != "Bern"]
    assert before[others].all()
    assert np.array_equal(after[others], before[others])


def test_what_does_not_stream_says_what_does() -> None:
    table = _inputs_and("is_large")
    base = _in_memory("boosted_trees", table, {"n_estimators": 2})
    assert not can_stream("boosted_trees", base)
    for family, start in (("cnn", None), ("transformer", None), ("boosted_trees", base)):
        with pytest.raises(InvalidArgument, match="declare more") as refusal:
            _prepared(family, table, {}, base=start)
        assert refusal.value.reason == "TABLE_TOO_LARGE"
    with pytest.raises(InvalidArgument, match="set batch_size"):
        _fit("linear_regression", _inputs_and("value"), {"epochs": 1, "batch_size": 0})
    with pytest.raises(InvalidArgument, match="fractions"):
        _prepared("logistic_regression", _inputs_and("value"), {})
