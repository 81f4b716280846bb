"""The recurrent network: forecasts with intervals that hold, tells series apart, and serves as it was trained."""

from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.checkpoints import Checkpoint
from services.training.domain.families.frame import Array
from services.training.domain.families.metrics import score
from services.training.domain.families.model import Model, Predictions, Run, Stopped
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.series.fit import widening
from services.training.domain.families.series.model import SeriesModel
from services.training.domain.families.target import Target
from tests.training.families.series.series_tables import HORIZON, SEASON, rising_or_falling, waves
from tests.training.families.training import train_any

SMALL: dict[str, object] = {"epochs": 2, "hidden_size": 8}


def _run(model: Model, feed: dict[str, Array]) -> list[Any]:
    session = onnxruntime.InferenceSession(model.export(), providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, feed)
    return found


def test_wave_is_forecast_with_intervals_that_hold_what_was_asked() -> None:
    table = waves(800)
    model, held_out = train_any("rnn", table, "wave_next", {"epochs": 6, "season": SEASON, "coverage": 0.8})
    # Of forecasts the last rows are held out.
    assert held_out.equals(table.slice(table.num_rows - held_out.num_rows))
    metrics = fitting.evaluate(model, held_out).metrics
    # The noise alone has a mean absolute value of 0.4, and its seasonal difference of 0.56.
    assert metrics["mae"] < 0.5
    assert metrics["mase"] < 0.85
    # 81 rows of 4 steps, of which those beside each other overlap.
    assert 0.7 < metrics["coverage"] < 0.9
    assert set(metrics) == {"mae", "rmse", "mase", "coverage", "mean_interval_width"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cell": "lstm", "layers": 2, "scaling": "global", "start": "season", "season": SEASON},
        {"start": "season", "season": SEASON, "linear_steps": 0},
        {"start": "season", "season": 1000},
        {"cell": "lstm", "precision": "bfloat16"},
    ],
)
def test_forecast_is_exported_as_it_is(settings: dict[str, object]) -> None:
    table = waves(120, shortest=3)
    model, _ = train_any("rnn", table, "wave_next", {**SMALL, **settings})
    assert measure_parity(model, model.export(), table).max_difference < 1e-5


def test_series_of_whole_numbers_beyond_what_doubles_tell_apart_are_learned() -> None:
    numbers = [2**53 + 1 + 2**40 * (step % 7) for step in range(160)]
    ends = range(8, len(numbers) - 2)
    table = pa.table(
        {
            "number": [numbers[end - 8 : end] for end in ends],
            "number_next": [numbers[end : end + 2] for end in ends],
        }
    )
    model, held_out = train_any("rnn", table, "number_next", {**SMALL, "epochs": 1})
    assert fitting.evaluate(model, held_out).rows == held_out.num_rows


@pytest.mark.parametrize("settings", [{}, {"cell": "lstm", "bidirectional": "yes", "layers": 2}, {"linear_steps": 0}])
def test_classes_of_series_of_any_length_are_told(settings: dict[str, object]) -> None:
    table = rising_or_falling()
    model, held_out = train_any("rnn", table, "drift", {"epochs": 10, "hidden_size": 8, **settings})
    assert fitting.evaluate(model, held_out).metrics["accuracy"] > 0.8
    parity = measure_parity(model, model.export(), table)
    assert parity.max_difference < 1e-5
    assert parity.label_mismatches == 0


def test_error_in_units_of_the_seasonal_one_is_left_out_where_that_is_rounding() -> None:
    # The same season again and again, but for the last digits of the sine.
    wave = np.sin(2 * np.pi * np.arange(160) / SEASON)
    ends = range(24, len(wave) - HORIZON)
    table = pa.table(
        {
            "wave": [wave[end - 24 : end].tolist() for end in ends],
            "wave_next": [wave[end : end + HORIZON].tolist() for end in ends],
        }
    )
    model, held_out = train_any("rnn", table, "wave_next", {**SMALL, "epochs": 1, "season": SEASON})
    assert "mase" not in fitting.evaluate(model, held_out).metrics


def test_padding_changes_no_answer() -> None:
    model, _ = train_any("rnn", waves(120, shortest=3), "wave_next", SMALL)
    ((_, feed),) = model.feeds(waves(1, longest=10, shortest=10).slice(0, 1))
    padded = {name: np.pad(steps, ((0, 0), (0, 7)), constant_values=np.nan) for name, steps in feed.items()}
    for plain, with_padding in zip(_run(model, feed), _run(model, padded), strict=True):
        np.testing.assert_allclose(with_padding, plain, rtol=1e-6)


def test_missing_values_are_read_around_and_nothing_is_said_of_nothing() -> None:
    table = waves(150)
    gaps = [[None if place % 7 == 0 else item for place, item in enumerate(row)] for row in table["wave"].to_pylist()]
    table = table.set_column(1, "wave", pa.array(gaps))
    model, held_out = train_any("rnn", table, "wave_next", {"epochs": 6})
    assert fitting.evaluate(model, held_out).metrics["mae"] < 2.0
    assert measure_parity(model, model.export(), table).max_difference < 1e-5
    nothing = {column.name: np.full((1, 5), np.nan, np.float32) for column in model.columns}
    assert all(np.isnan(output).all() for output in _run(model, nothing))


def test_bounds_never_cross() -> None:
    table = waves(150)
    model, _ = train_any("rnn", table, "wave_next", SMALL)
    found = model.predict(table)
    assert found.interval is not None
    lower, upper = found.interval
    assert (lower <= found.values).all()
    assert (found.values <= upper).all()


def test_widening_gives_the_asked_coverage_to_rows_of_the_same_kind() -> None:
    draw = np.random.default_rng(0)
    # The network says an interval that is far too narrow, and twice as wide above.
    truth = draw.normal(0.0, 1.0, (4000, 3)) * [1.0, 2.0, 3.0]
    middle = np.zeros_like(truth)
    factor = widening(middle[:2000], middle[:2000] - 0.1, middle[:2000] + 0.2, truth[:2000], 0.9)
    held = (truth[2000:] >= -0.1 * factor) & (truth[2000:] <= 0.2 * factor)
    np.testing.assert_allclose(held.mean(axis=0), 0.9, atol=0.03)


def test_metrics_of_forecasts_are_what_they_are_named_for() -> None:
    truth = np.array([[1.0, 2.0], [3.0, 4.0]])
    values = np.array([[1.0, 3.0], [3.0, 2.0]])
    found = score(
        Predictions(values, None, (values - 1.0, values + 1.0), 0.5), truth, Target("y", "forecasting", (), "FP32", 2)
    )
    assert found.metrics == {
        "mae": 0.75,
        "rmse": pytest.approx(np.sqrt(1.25)),
        "coverage": 0.75,
        "mean_interval_width": 2.0,
        "mase": 1.5,
    }


def test_same_rows_and_seed_give_the_same_files_and_another_seed_others() -> None:
    table = waves(120, shortest=3)
    first, again, other = (train_any("rnn", table, "wave_next", SMALL, seed=seed)[0] for seed in (3, 3, 4))
    assert first.files() == again.files()
    assert first.export() == again.export()
    assert first.files()["weights.safetensors"] != other.files()["weights.safetensors"]


def test_stored_model_is_the_same_when_it_is_loaded() -> None:
    table = waves(120)
    model, _ = train_any("rnn", table, "wave_next", SMALL)
    loaded = fitting.load(model.files())
    assert loaded.files() == model.files()
    np.testing.assert_array_equal(loaded.predict(table).values, model.predict(table).values)


def test_fine_tune_of_the_last_layer_leaves_the_recurrent_ones() -> None:
    parent, _ = train_any("rnn", waves(120), "wave_next", SMALL)
    before = parent.files()
    child, _ = train_any("rnn", waves(200, noise=1.0), "wave_next", {**SMALL, "trainable": "last"}, base=parent)
    assert isinstance(parent, SeriesModel)
    assert isinstance(child, SeriesModel)
    assert parent.files() == before
    was, now = parent.network.state_dict(), child.network.state_dict()
    changed = {name for name in was if not was[name].equal(now[name])}
    # The new rows are noisier, so that its intervals are others, too.
    assert {"head.weight", "head.bias", "linear.weight", "widening"} == changed


def test_fine_tune_tells_the_network_that_it_has_and_is_judged_as_its_parent() -> None:
    shape = {"hidden_size": 4, "cell": "lstm", "linear_steps": 6, "scaling": "global", "dropout": 0.0}
    table = waves(150)
    parent, held_out = train_any(
        "rnn", table, "wave_next", {**shape, "epochs": 2, "season": SEASON, "start": "season", "coverage": 0.95}
    )
    child, _ = train_any("rnn", table, "wave_next", {"epochs": 1, "learning_rate": 1e-6}, base=parent)
    told = ("season", "start", "coverage", "layers", "bidirectional", *shape)
    assert {name: child.hyperparameters[name] for name in told} == {name: parent.hyperparameters[name] for name in told}
    # Hardly changed, it is as good by the same measure.
    was, now = (fitting.evaluate(model, held_out).metrics for model in (parent, child))
    assert now["mase"] == pytest.approx(was["mase"], rel=0.01)
    assert now["mean_interval_width"] == pytest.approx(was["mean_interval_width"], rel=0.05)
    loaded = fitting.load(child.files())
    assert fitting.evaluate(loaded, held_out).metrics == now


def test_fine_tune_takes_a_season_and_a_coverage_that_are_asked_for() -> None:
    parent, _ = train_any("rnn", waves(150), "wave_next", {**SMALL, "season": SEASON, "coverage": 0.95})
    child, _ = train_any("rnn", waves(150), "wave_next", {"epochs": 1, "season": 6, "coverage": 0.5}, base=parent)
    assert (child.hyperparameters["season"], child.hyperparameters["coverage"]) == (6, 0.5)


def test_fit_that_was_cut_ends_with_the_same_files() -> None:
    table = waves(200, shortest=3)
    whole, _ = train_any("rnn", table, "wave_next", SMALL)
    settings = resolve_hyperparameters("rnn", SMALL)
    schema = fitting.describe("rnn", table, "wave_next", settings)
    rows, _ = fitting.hold_out(table, schema.target, 0)
    kept = _Kept()
    asked = iter(range(100))
    with pytest.raises(Stopped):
        fitting.fit("rnn", schema, rows, Run(settings, 0, lambda _: None, lambda: next(asked) >= 4, checkpoints=kept))
    assert kept.found is not None
    rest = fitting.fit("rnn", schema, rows, Run(settings, 0, lambda _: None, lambda: False, checkpoints=kept))
    assert rest.files() == whole.files()


class _Kept:
    """Keeps the latest checkpoint."""

    found: Checkpoint | None = None

    def is_due(self) -> bool:
        return False

    def keep(self, checkpoint: Checkpoint) -> None:
        self.found = checkpoint


@pytest.mark.parametrize(
    ("table", "target", "settings", "reason"),
    [
        (waves(60).select(["time", "wave_next"]), "wave_next", {}, "NO_SERIES"),
        (waves(60).rename_columns(["time", "lower", "beside", "wave_next"]), "wave_next", {}, "RESERVED_NAME"),
        (waves(60), "wave_next", {"bidirectional": "yes"}, "BAD_HYPERPARAMETER"),
        (waves(60).drop(["wave_next"]), "time", {}, "CLASS_SEEN_ONCE"),
        (waves(40).slice(0, 60), "wave_next", {}, "TOO_FEW_ROWS"),
    ],
)
def test_tables_that_cannot_be_learned_from_are_refused(
    table: pa.Table, target: str, settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        train_any("rnn", table, target, {**SMALL, **settings})
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"x": [[1.0], [2.0, 3.0]], "z": [[1.0], [2.0]]}, "SERIES_LENGTHS"),
        ({"x": [[1.0], None]}, "SERIES_MISSING"),
        ({"x": [[1.0], []]}, "SERIES_EMPTY"),
        ({"x": [[1.0], [None, None]]}, "SERIES_EMPTY"),
        ({"x": [[1.0], [float("inf")]]}, "INFINITE_VALUE"),
        ({"x": [[1.0], [1e39]]}, "INFINITE_VALUE"),
        ({"x_next": [[1.0], [2.0, 3.0]]}, "TARGET_LENGTHS"),
        ({"x_next": [[], []]}, "TARGET_LENGTHS"),
        ({"x_next": [[1.0], [None]]}, "TARGET_MISSING"),
        ({"x_next": [[1.0], None]}, "TARGET_MISSING"),
        ({"x_next": [[1.0], [1.0]]}, "TARGET_CONSTANT"),
    ],
)
def test_series_that_do_not_go_together_are_refused(changed: dict[str, Any], reason: str) -> None:
    table = pa.table({"x": [[1.0], [2.0]], "x_next": [[1.0], [2.0]], **changed})
    with pytest.raises(InvalidArgument) as refused:
        fitting.describe("rnn", table, "x_next", resolve_hyperparameters("rnn", {}))
    assert refused.value.reason == reason


@pytest.mark.parametrize(("family", "target"), [("mlp", "wave_next"), ("linear_regression", "wave_next")])
def test_other_families_say_who_reads_series(family: str, target: str) -> None:
    with pytest.raises(InvalidArgument, match="rnn") as refused:
        train_any(family, waves(60), target)
    assert refused.value.reason == "TARGET_IS_SERIES"
    with pytest.raises(InvalidArgument, match="rnn") as refused:
        train_any(family, waves(60).drop(["wave_next"]), "time")
    assert refused.value.reason == "UNSUPPORTED_COLUMN"


def test_rows_to_score_need_the_same_horizon() -> None:
    model, _ = train_any("rnn", waves(120), "wave_next", SMALL)
    table = waves(5)
    shorter = table.set_column(3, "wave_next", pa.array([row[: HORIZON - 1] for row in table["wave_next"].to_pylist()]))
    with pytest.raises(InvalidArgument) as refused:
        fitting.evaluate(model, shorter)
    assert refused.value.reason == "TARGET_LENGTHS"
