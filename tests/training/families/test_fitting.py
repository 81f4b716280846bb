import hashlib
import json
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.catalog import FAMILIES, resolve_hyperparameters
from services.training.domain.families.linear import LinearCore
from services.training.domain.families.model import Model, Run, Stopped
from services.training.domain.families.parity import measure_parity
from services.training.domain.families.trees import TreesCore
from tests.training.families.training import FEW_TREES, inputs_and, mixed, train, train_any

CASES = [
    ("linear_regression", "value", {}),
    ("linear_regression", "value", {"optimizer": "sgd", "epochs": 3}),
    ("logistic_regression", "label", {}),
    ("boosted_trees", "value", {"subsample": 0.7, **FEW_TREES}),
    ("boosted_trees", "label", FEW_TREES),
]


def digest(model: Model) -> str:
    files = {"model.onnx": model.export(), **model.files()}
    return hashlib.sha256(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


@pytest.mark.parametrize(("family", "target", "hyperparameters"), CASES)
def test_the_same_rows_and_seed_give_the_same_artifacts(
    family: str, target: str, hyperparameters: dict[str, object]
) -> None:
    table = inputs_and(mixed(), target)
    first, second = (train(family, table, target, hyperparameters, seed=3).model for _ in range(2))
    assert digest(first) == digest(second)
    assert digest(train(family, table, target, hyperparameters, seed=4).model) != digest(first)


@pytest.mark.parametrize(("family", "target", "hyperparameters"), CASES)
def test_a_model_comes_back_from_its_files(family: str, target: str, hyperparameters: dict[str, object]) -> None:
    table = inputs_and(mixed(), target)
    model = train(family, table, target, hyperparameters).model
    back = fitting.load(model.files())
    assert digest(back) == digest(model)
    assert back.columns == model.columns
    assert back.target == model.target
    np.testing.assert_array_equal(back.predict(table).values, model.predict(table).values)


def test_least_squares_finds_the_weights() -> None:
    x = np.random.default_rng(0).normal(size=(50, 2)) * [1.0, 100.0] + [0.0, 1e6]
    table = pa.table({"a": x[:, 0], "b": x[:, 1], "y": 3.0 * x[:, 0] - 0.5 * x[:, 1] + 7.0})
    trained = train("linear_regression", table, "y")
    expected = trained.held_out["y"].to_numpy()
    np.testing.assert_allclose(trained.model.predict(trained.held_out).values, expected, rtol=1e-9)


@pytest.mark.parametrize(("optimizer", "epochs"), [("adam", 300), ("sgd", 1000)])
def test_gradient_descent_comes_close_to_least_squares(optimizer: str, epochs: int) -> None:
    table = inputs_and(mixed(), "value")
    exact = train("linear_regression", table, "value")
    descended = train("linear_regression", table, "value", {"optimizer": optimizer, "epochs": epochs})
    best, found = (fitting.evaluate(trained.model, table).metrics["rmse"] for trained in (exact, descended))
    assert found < best * 1.02
    losses = [progress.metrics["loss"] for progress in descended.told]
    assert len(losses) == epochs
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_sgd_by_itself_never_diverges(scale: float) -> None:
    # Heavy tails and columns that say the same: what a fixed step trips over.
    draw = np.random.default_rng(0)
    x = draw.standard_cauchy(300) * scale
    table = pa.table(
        {**{f"x{place}": x + draw.normal(size=300) for place in range(20)}, "y": x + draw.normal(size=300)}
    )
    trained = train("linear_regression", table, "y", {"optimizer": "sgd", "epochs": 20})
    losses = [progress.metrics["loss"] for progress in trained.told]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("target", ["is_dear", "label"])
@pytest.mark.parametrize("class_weight", ["none", "balanced"])
def test_logistic_regression_is_scikit_learns(target: str, class_weight: str) -> None:
    table = mixed().select(["count", "price", target])
    settings = resolve_hyperparameters("logistic_regression", {"c": 0.3, "class_weight": class_weight})
    schema = fitting.describe("logistic_regression", table, target, settings)
    model = fitting.fit("logistic_regression", schema, table, Run(settings, 0, lambda _: None, lambda: False))
    x = np.column_stack([table["count"].to_numpy(), np.array(table["price"].to_pylist(), dtype=float)])
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    weight = None if class_weight == "none" else "balanced"
    reference = LogisticRegression(C=0.3, class_weight=weight, tol=1e-8, max_iter=1000)
    reference.fit(x, [str(value).lower() for value in table[target].to_pylist()])
    found = model.predict(table).probabilities
    assert found is not None
    np.testing.assert_allclose(found, reference.predict_proba(x), atol=1e-4)


def test_a_fine_tune_goes_on_from_the_weights_and_keeps_the_scale() -> None:
    table = inputs_and(mixed(), "value")
    base = train("linear_regression", table, "value").model
    moved = table.set_column(8, "value", pa.array(table["value"].to_numpy() + 20.0))
    tuned = train("linear_regression", moved, "value", {"optimizer": "sgd", "epochs": 30}, base=base).model
    assert isinstance(base.core, LinearCore)
    assert isinstance(tuned.core, LinearCore)
    np.testing.assert_array_equal(tuned.core.scaling.mean, base.core.scaling.mean)
    assert tuned.columns == base.columns
    error = fitting.evaluate(tuned, moved).metrics["rmse"]
    assert error < 0.5 * fitting.evaluate(base, moved).metrics["rmse"]
    short = train("linear_regression", moved, "value", {"optimizer": "sgd", "epochs": 1}, base=base).model
    fresh = train("linear_regression", moved, "value", {"optimizer": "sgd", "epochs": 1}).model
    assert fitting.evaluate(short, moved).metrics["rmse"] < fitting.evaluate(fresh, moved).metrics["rmse"]


def test_a_logistic_fine_tune_starts_where_the_base_ended() -> None:
    table = inputs_and(mixed(), "label")
    base = train("logistic_regression", table, "label")
    again = train("logistic_regression", table, "label", base=base.model)
    assert again.told[-1].step < base.told[-1].step / 2


def test_trees_are_added_to_the_bases() -> None:
    table = inputs_and(mixed(), "label")
    base = train("boosted_trees", table, "label", FEW_TREES).model
    tuned = train("boosted_trees", table, "label", FEW_TREES, base=base).model
    assert isinstance(base.core, TreesCore)
    assert isinstance(tuned.core, TreesCore)
    assert tuned.core.booster().num_trees() == 2 * base.core.booster().num_trees() == 60
    np.testing.assert_array_equal(tuned.core.category_values, base.core.category_values)
    assert measure_parity(tuned, tuned.export(), table).max_difference <= 1e-6
    losses = [fitting.evaluate(model, table).metrics["log_loss"] for model in (base, tuned)]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("family", ["logistic_regression", "boosted_trees"])
def test_a_fine_tune_needs_every_class(family: str) -> None:
    table = inputs_and(mixed(), "label")
    base = train(family, table, "label").model
    without = table.filter(pa.array([value != "mid" for value in table["label"].to_pylist()]))
    with pytest.raises(InvalidArgument, match="no row has class 'mid'"):
        train(family, without, "label", base=base)


def test_a_fine_tune_stays_in_its_family() -> None:
    table = inputs_and(mixed(), "label")
    base = train("logistic_regression", table, "label").model
    with pytest.raises(InvalidArgument, match="the base model is of logistic_regression"):
        train("boosted_trees", table, "label", base=base)


@pytest.mark.parametrize(("family", "target", "hyperparameters"), CASES[1:])
def test_a_fit_stops_when_it_is_cancelled(family: str, target: str, hyperparameters: dict[str, object]) -> None:
    asked = iter([False, True])
    with pytest.raises(Stopped):
        train(family, inputs_and(mixed(), target), target, hyperparameters, is_cancelled=lambda: next(asked))


@pytest.mark.parametrize(("family", "target", "hyperparameters"), CASES)
def test_progress_rises_to_the_end(family: str, target: str, hyperparameters: dict[str, object]) -> None:
    told = train(family, inputs_and(mixed(), target), target, hyperparameters).told
    shares = [progress.share for progress in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert all(progress.metrics for progress in told)


def test_boosting_stops_early() -> None:
    table = inputs_and(mixed(400), "label")
    trained = train("boosted_trees", table, "label", {"n_estimators": 2000, "early_stopping": 5})
    assert len(trained.told) < 500
    assert isinstance(trained.model.core, TreesCore)
    assert trained.model.core.booster().num_trees() == 3 * (len(trained.told) - 5)
    assert "validation_multi_logloss" in trained.told[-1].metrics


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["b", "a"] * 20, "binary", ("a", "b")),
        (["b", "a", "c", "a"] * 10, "multiclass", ("a", "b", "c")),
        ([True, False] * 20, "binary", ("false", "true")),
        ([0, 1] * 20, "binary", ("0", "1")),
        ([0.0, 1.0] * 20, "binary", ("0", "1")),
        ([1, 2, 3, 4] * 10, "regression", ()),
        ([0.5, 1.0] * 20, "regression", ()),
    ],
)
def test_the_task_follows_from_the_target(values: list[object], task: str, classes: tuple[str, ...]) -> None:
    table = pa.table({"x": list(range(40)), "y": values})
    settings = resolve_hyperparameters("boosted_trees", {})
    target = fitting.describe("boosted_trees", table, "y", settings).target
    assert (target.task, target.classes) == (task, classes)


def test_a_number_of_two_values_is_a_regression_to_linear_regression() -> None:
    table = pa.table({"x": list(range(40)), "y": [0, 1] * 20})
    assert train("linear_regression", table, "y").model.target.task == "regression"


def test_a_value_that_lacks_in_held_out_rows_may_lack_at_prediction() -> None:
    table = pa.table({"x": [float(row) for row in range(40)], "y": [float(row) for row in range(40)]})
    for row in range(40):
        gaps = pa.array(np.where(np.arange(40) == row, np.nan, np.arange(40.0)))
        trained = train("linear_regression", table.set_column(0, "x", gaps), "y")
        assert trained.model.columns[0].nullable
        assert measure_parity(trained.model, trained.model.export(), trained.held_out).max_difference < 1e-6


def test_rows_are_held_out_by_class() -> None:
    table = pa.table({"x": list(range(100)), "y": ["rare"] * 10 + ["common"] * 86 + ["pair"] * 2 + ["few"] * 2})
    settings = resolve_hyperparameters("logistic_regression", {})
    target = fitting.describe("logistic_regression", table, "y", settings).target
    rows, held_out = fitting.hold_out(table, target, 0)
    assert held_out["y"].to_pylist() == ["rare"] + ["common"] * 9
    assert sorted(rows["x"].to_pylist() + held_out["x"].to_pylist()) == list(range(100))
    assert fitting.hold_out(table, target, 1)[1] != held_out


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.reads != "images"])
def test_two_rows_are_enough(family: str) -> None:
    target = [1.0, 2.0] if family == "linear_regression" else ["a", "b"] * 2
    numbers = pa.array([float(row) for row in range(len(target))])
    spelled = {"texts": numbers.cast(pa.string()), "series": pa.array([[number] for number in numbers.to_pylist()])}
    table = pa.table({"x": spelled.get(FAMILIES[family].reads, numbers), "y": target})
    model, held_out = train_any(family, table, "y")
    assert held_out.num_rows == 1
    assert measure_parity(model, model.export(), table).max_difference < 1e-6


def test_settings_of_gradient_descent_imply_it() -> None:
    assert resolve_hyperparameters("linear_regression", {})["solver"] == "least_squares"
    assert resolve_hyperparameters("linear_regression", {"epochs": 5})["solver"] == "gradient_descent"
    resolved = resolve_hyperparameters("linear_regression", {"optimizer": "sgd", "solver": "least_squares"})
    assert resolved["solver"] == "least_squares"
    assert resolve_hyperparameters("linear_regression", resolved) == resolved


def test_state_is_readable_without_us() -> None:
    files = train("boosted_trees", inputs_and(mixed(), "label"), "label", FEW_TREES).model.files()
    assert sorted(files) == ["categories.json", "family.json", "trees.txt"]
    assert json.loads(files["family.json"])["target"]["classes"] == ["high", "low", "mid"]
    files = train("logistic_regression", inputs_and(mixed(), "label"), "label").model.files()
    assert sorted(files) == ["family.json", "state.safetensors"]


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_listing_families_loads_no_library_that_trains() -> None:
    loaded = _python(
        """
        import sys
        import services.training.domain.families.catalog
        print([name for name in ("torch", "lightgbm", "sklearn", "scipy", "onnx", "pandas") if name in sys.modules])
        """
    )
    assert loaded.strip() == "[]"


def test_a_fit_loads_only_what_it_needs() -> None:
    loaded = _python(
        """
        import sys
        from services.training.domain.families.absent_libraries import absent
        from tests.training.families.training import FEW_TREES, inputs_and, mixed, train
        train("boosted_trees", inputs_and(mixed(), "label"), "label", FEW_TREES).model.export()
        train("logistic_regression", inputs_and(mixed(), "label"), "label").model.export()
        print([name for name in ("torch", "sklearn", "matplotlib") if name in sys.modules])
        import pandas, sklearn.linear_model  # still there for those who do want them
        """
    )
    assert loaded.strip() == "[]"


def test_openmp_comes_with_torch_where_the_machine_has_none() -> None:
    mapped = _python(
        """
        import sys
        from services.training.domain.families.lightgbm_library import preload_openmp
        preload_openmp("libgomp-that-lacks.so.1")
        print([line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line][0], "torch" in sys.modules)
        import lightgbm
        """
    )
    assert "torch/lib/libgomp" in mapped
    assert mapped.split()[-1] == "False"


def test_threads_leave_the_trees_as_they_are() -> None:
    table = inputs_and(mixed(), "label")
    settings = resolve_hyperparameters("boosted_trees", FEW_TREES)
    schema = fitting.describe("boosted_trees", table, "label", settings)
    found = [
        fitting.fit("boosted_trees", schema, table, Run(settings, 0, lambda _: None, lambda: False, threads=threads))
        .predict(table)
        .probabilities
        for threads in (1, 2)
    ]
    assert found[0] is not None
    assert found[1] is not None
    np.testing.assert_array_equal(found[0], found[1])
