"""An export gives what the trained model gives, whatever the table."""

import math
from dataclasses import replace

import numpy as np
import onnx
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.training.domain.families.linear import LinearCore
from services.training.domain.families.parity import measure_parity, run_onnx
from tests.training.families.training import FEW_TREES, inputs_and, mixed, train

CASES = [
    ("linear_regression", "value", {}),
    ("linear_regression", "value", {"l2": 0.1}),
    ("linear_regression", "value", {"optimizer": "adam", "epochs": 3}),
    ("logistic_regression", "is_dear", {}),
    ("logistic_regression", "grade", {}),
    ("logistic_regression", "label", {"class_weight": "balanced"}),
    ("boosted_trees", "value", FEW_TREES),
    ("boosted_trees", "is_dear", FEW_TREES),
    ("boosted_trees", "label", FEW_TREES),
    ("boosted_trees", "grade", {"task": "classification", **FEW_TREES}),
    ("boosted_trees", "label", {"subsample": 0.5, "colsample": 0.5, **FEW_TREES}),
]


@pytest.mark.parametrize(("family", "target", "hyperparameters"), CASES)
def test_exports_agree_for_every_family_and_kind(family: str, target: str, hyperparameters: dict[str, object]) -> None:
    table = inputs_and(mixed(), target)
    trained = train(family, table, target, hyperparameters)
    parity = measure_parity(trained.model, trained.model.export(), table)
    assert parity.max_difference <= 1e-6
    assert parity.label_mismatches == 0
    assert parity.rows == table.num_rows


@pytest.mark.parametrize(
    ("target", "datatype"), [("is_dear", np.bool_), ("grade", np.int64), ("label", np.object_), ("value", np.float64)]
)
def test_predictions_have_the_targets_type(target: str, datatype: type) -> None:
    table = inputs_and(mixed(), target)
    family = "linear_regression" if target == "value" else "logistic_regression"
    trained = train(family, table, target)
    prediction = run_onnx(trained.model, trained.model.export(), table)["prediction"]
    assert prediction.dtype == datatype
    assert prediction.shape == (table.num_rows, 1)


@pytest.mark.parametrize("family", ["logistic_regression", "boosted_trees"])
def test_unknown_and_missing_values_agree(family: str) -> None:
    table = inputs_and(mixed(), "is_dear")
    trained = train(family, table, "is_dear", FEW_TREES if family == "boosted_trees" else {})
    rows = table.slice(0, 4).set_column(5, "town", pa.array(["Ulm", "Bern", "BERN", " Bern"]))
    rows = rows.set_column(0, "size", pa.array([None, 1.0, math.nan, 2.0]))
    rows = rows.set_column(6, "town_gaps", pa.array([None, "", "Ulm", "北京"]))
    rows = rows.set_column(4, "is_new_gaps", pa.array([None, True, False, None]))
    parity = measure_parity(trained.model, trained.model.export(), rows)
    assert parity.max_difference <= 1e-6
    assert parity.label_mismatches == 0


@pytest.mark.parametrize("family", ["logistic_regression", "boosted_trees"])
def test_texts_that_differ_by_nuls_at_their_end_stay_apart(family: str) -> None:
    names = ["", "\x00", "a", "a\x00", "a\x00\x00"] * 20
    table = pa.table({"name": names, "y": [f"{len(name)}\x00" for name in names]})
    trained = train(family, table, "y", FEW_TREES if family == "boosted_trees" else {})
    outputs = run_onnx(trained.model, trained.model.export(), table)
    assert set(outputs["prediction"].reshape(-1)) <= {"0\x00", "1\x00", "2\x00", "3\x00"}
    parity = measure_parity(trained.model, trained.model.export(), table)
    assert parity.max_difference <= 1e-6
    assert parity.label_mismatches == 0


def test_an_unknown_category_counts_as_none_of_the_known() -> None:
    table = inputs_and(mixed(), "value")
    trained = train("linear_regression", table, "value")
    assert isinstance(trained.model.core, LinearCore)
    rows = table.slice(0, 1)
    known = float(trained.model.predict(rows).values[0])
    unknown = float(trained.model.predict(rows.set_column(5, "town", pa.array(["Ulm"]))).values[0])
    place = trained.model.columns[5].categories.index(rows["town"][0].as_py())
    assert known - unknown == pytest.approx(float(trained.model.core.category_weights[place, 0]))


def test_a_model_that_differs_is_found_out() -> None:
    table = inputs_and(mixed(), "value")
    model = train("linear_regression", table, "value").model
    assert isinstance(model.core, LinearCore)
    other = replace(model, core=replace(model.core, intercept=model.core.intercept + 1.0))
    assert measure_parity(other, model.export(), table).max_difference > 1e-3
    broken = replace(model, core=replace(model.core, intercept=model.core.intercept * math.nan))
    assert measure_parity(broken, model.export(), table).max_difference == math.inf


def test_other_labels_are_counted() -> None:
    table = inputs_and(mixed(), "label")
    model = train("logistic_regression", table, "label").model
    assert isinstance(model.core, LinearCore)
    turned = replace(model.core, intercept=model.core.intercept + np.array([100.0, 0.0, 0.0]))
    parity = measure_parity(replace(model, core=turned), model.export(), table)
    assert parity.label_mismatches == pytest.approx(120, abs=5)


FLOATS = st.one_of(
    st.floats(-1e9, 1e9),
    st.sampled_from([0.0, -0.0, 1e-300, -1e-40, 1e30, 0.1 + 0.2, float(2**53 + 2)]),
)
COLUMNS = st.sampled_from(
    [
        (pa.float64(), FLOATS),
        (pa.float32(), st.floats(width=32, allow_nan=False, allow_infinity=False)),
        (pa.int64(), st.integers(-(2**53), 2**53)),
        (pa.int8(), st.integers(-128, 127)),
        (pa.bool_(), st.booleans()),
        (pa.string(), st.text(st.characters(exclude_categories=["Cs"]), max_size=4)),
        (pa.string(), st.sampled_from(["a", "b", "", "a\x00b", "0\x1fa", "é"])),
    ]
)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6).filter(
    lambda name: name not in ("y", "prediction", "probabilities")
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Tables of any kinds of columns, with missing values, and a target `y` of six values."""
    rows = draw(st.integers(12, 40))
    names = draw(st.lists(st.one_of(NAMES, st.just("_constant_0")), min_size=1, max_size=5, unique=True))
    columns = {}
    for name in names:
        kind, values = draw(COLUMNS)
        cells = st.one_of(st.none(), values) if draw(st.booleans()) else values
        found = draw(st.lists(cells, min_size=rows, max_size=rows))
        column = pa.array(found, kind)
        columns[name] = column if column.null_count < rows else pa.array([1] * rows)
    columns["y"] = pa.array([float(row * row % 6) for row in range(rows)])
    return pa.table(columns)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(table=tables(), family=st.sampled_from(["linear", "logistic", "trees", "tree_classes"]))
def test_exports_agree_for_any_table(table: pa.Table, family: str) -> None:
    kinds: dict[str, tuple[str, dict[str, object]]] = {
        "linear": ("linear_regression", {}),
        "logistic": ("logistic_regression", {"max_iterations": 20}),
        "trees": ("boosted_trees", FEW_TREES),
        "tree_classes": ("boosted_trees", {"task": "classification", **FEW_TREES}),
    }
    name, hyperparameters = kinds[family]
    trained = train(name, table, "y", hyperparameters)
    parity = measure_parity(trained.model, trained.model.export(), table)
    assert parity.max_difference <= 1e-5
    assert parity.label_mismatches == 0


def test_columns_that_hardly_differ_get_no_huge_weights() -> None:
    draws = np.random.default_rng(3)
    x = draws.normal(size=200)
    table = pa.table({"a": x, "b": x + 1e-13 * draws.normal(size=200), "y": x + draws.normal(size=200)})
    trained = train("linear_regression", table, "y")
    assert isinstance(trained.model.core, LinearCore)
    assert np.abs(trained.model.core.number_weights).max() < 10
    assert measure_parity(trained.model, trained.model.export(), table).max_difference <= 1e-9


@pytest.mark.parametrize("family", ["linear_regression", "boosted_trees"])
def test_thousands_of_columns_are_one_more_input_each_and_no_node(family: str) -> None:
    nodes = []
    for count in (20, 2_000):
        columns = {f"c{place}": np.arange(30.0) * place % 7 for place in range(count)}
        table = pa.table({**columns, "y": np.arange(30.0)})
        model = train(family, table, "y", {} if family == "linear_regression" else FEW_TREES).model
        exported = model.export()
        assert measure_parity(model, exported, table.slice(0, 5)).max_difference <= 1e-6
        nodes.append(len(onnx.load_from_string(exported).graph.node))
    assert nodes[0] == nodes[1]
