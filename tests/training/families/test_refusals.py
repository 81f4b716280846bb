"""Bad input gets a typed error that says what to do."""

import math

import pyarrow as pa
import pytest

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from tests.training.families.training import FEW_TREES, inputs_and, mixed, train

X = [1.0, 2.0, 3.0, 4.0]
FAMILIES = ["linear_regression", "logistic_regression", "boosted_trees"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("columns", "reason", "words"),
    [
        ({"x": X, "y": [1, 1, 1, 1]}, "TARGET_CONSTANT", "'y' is constant"),
        ({"x": X, "y": [1, None, 0, 1]}, "TARGET_MISSING", "no value in 1 of 4 rows"),
        ({"x": X, "y": [1.0, math.nan, 0.0, 1.0]}, "TARGET_MISSING", "no value in 1 of 4 rows"),
        ({"x": X, "z": X}, "TARGET_NOT_FOUND", "the table has x, z"),
        ({"x": X[:1], "y": [1]}, "TOO_FEW_ROWS", "1 rows"),
        ({"x": [], "y": pa.array([], pa.int64())}, "TOO_FEW_ROWS", "0 rows"),
        ({"y": [0, 1, 0, 1]}, "NO_INPUT_COLUMNS", "beside the target"),
        ({"x": [None] * 4, "y": [0, 1, 0, 1]}, "EMPTY_COLUMN", "'x'"),
        ({"x": [math.nan] * 4, "y": [0, 1, 0, 1]}, "EMPTY_COLUMN", "'x'"),
        ({"x": [1.0, math.inf, 2.0, 3.0], "y": [0, 1, 0, 1]}, "INFINITE_VALUE", "'x'"),
        ({"x": [[1]] * 4, "y": [0, 1, 0, 1]}, "UNSUPPORTED_COLUMN", "list<"),
        ({"x": pa.array([b"a"] * 4), "y": [0, 1, 0, 1]}, "UNSUPPORTED_COLUMN", "cast it"),
        ({"x": pa.array([2**62] * 4, pa.timestamp("s")), "y": [0, 1, 0, 1]}, "DATE_OUT_OF_RANGE", "'x'"),
        ({"": X, "y": [0, 1, 0, 1]}, "UNNAMED_COLUMN", "column 1"),
        ({"prediction": X, "y": [0, 1, 0, 1]}, "RESERVED_NAME", "'prediction'"),
    ],
)
def test_a_table_that_cannot_be_learned_is_refused(
    family: str, columns: dict[str, object], reason: str, words: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        train(family, pa.table(columns), "y")
    assert caught.value.reason == reason
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("family", "target", "reason"),
    [
        ("logistic_regression", ["a", "a", "b", "b", "c"], "CLASS_SEEN_ONCE"),
        ("boosted_trees", ["a", "a", "b", "b", "c"], "CLASS_SEEN_ONCE"),
        ("logistic_regression", [0.5, 0.5, 1.5, 1.5, 2.0], "TARGET_NOT_CLASSES"),
        ("logistic_regression", [0.0, 1.0, math.inf, 1.0, 0.0], "INFINITE_VALUE"),
        ("logistic_regression", [b"\xff", b"a", b"\xff", b"a", b"a"], "TARGET_NOT_CLASSES"),
        ("boosted_trees", pa.array([b"\xff", b"aa", b"\xff", b"aa", b"aa"], pa.large_binary()), "TARGET_NOT_CLASSES"),
        ("boosted_trees", pa.array([b"ab", b"cd", b"ab", b"cd", b"cd"], pa.binary(2)), "TARGET_NOT_CLASSES"),
        ("logistic_regression", [["a"], ["b"], ["a"], ["b"], ["a"]], "TARGET_NOT_CLASSES"),
        ("boosted_trees", [{"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}, {"a": 1}], "TARGET_NOT_CLASSES"),
        ("linear_regression", [{"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}, {"a": 1}], "TARGET_NOT_NUMERIC"),
        ("linear_regression", [0.0, 1.0, math.inf, 1.0, 0.0], "INFINITE_VALUE"),
        ("linear_regression", ["a", "a", "b", "b", "b"], "TARGET_NOT_NUMERIC"),
        ("linear_regression", [True, False, True, False, True], "TARGET_NOT_NUMERIC"),
    ],
)
def test_a_target_that_does_not_suit_is_refused(family: str, target: list[object], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        train(family, pa.table({"x": [*X, 5.0], "y": target}), "y")
    assert caught.value.reason == reason


@pytest.mark.parametrize("family", ["linear_regression", "boosted_trees"])
def test_whole_numbers_beyond_what_doubles_tell_apart_are_learned(family: str) -> None:
    table = pa.table({"x": X * 5, "y": [2**53 + 1 + row for row in range(20)]})
    trained = train(family, table, "y", FEW_TREES if family == "boosted_trees" else {})
    assert fitting.evaluate(trained.model, table).metrics["mae"] < 100


def test_duplicate_names_are_refused() -> None:
    table = pa.table([pa.array(X), pa.array(X), pa.array([0, 1, 0, 1])], names=["x", "x", "y"])
    with pytest.raises(InvalidArgument, match="two columns are named 'x'") as caught:
        train("boosted_trees", table, "y")
    assert caught.value.reason == "DUPLICATE_COLUMN"


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("count", None, "COLUMN_MISSING"),
        ("count", ["many"] * 3, "COLUMN_TYPE"),
        ("count", [1.5, 2.0, 3.0], "COLUMN_TYPE"),
        ("count", [1, None, 3], "MISSING_VALUE"),
        ("town", ["Bern", None, "Bern"], "MISSING_VALUE"),
        ("town", ["Bern", "", "Bern"], "MISSING_VALUE"),
        ("is_new", [True, None, True], "MISSING_VALUE"),
        ("size", [1.0, -math.inf, 2.0], "INFINITE_VALUE"),
        ("town", ["Bern", "Ulm", "Bern"], "UNKNOWN_CATEGORY"),
        ("label", ["low", "huge", "mid"], "UNKNOWN_CLASS"),
        ("label", ["low", None, "mid"], "TARGET_MISSING"),
        ("label", [["low"], ["mid"], ["mid"]], "TARGET_NOT_CLASSES"),
        ("label", [b"low", b"mid", b"mid"], "TARGET_NOT_CLASSES"),
    ],
)
def test_rows_that_the_model_refuses_are_not_scored(name: str, values: list[object] | None, reason: str) -> None:
    table = inputs_and(mixed(), "label")
    model = train("logistic_regression", table, "label", handle_unknown="error").model
    place = table.column_names.index(name)
    rows = table.slice(0, 3)
    rows = rows.remove_column(place) if values is None else rows.set_column(place, name, pa.array(values))
    with pytest.raises(InvalidArgument) as caught:
        fitting.evaluate(model, rows)
    assert caught.value.reason == reason
    assert name in caught.value.message


def test_no_rows_are_not_scored() -> None:
    table = inputs_and(mixed(), "label")
    with pytest.raises(InvalidArgument, match="no row"):
        fitting.evaluate(train("logistic_regression", table, "label").model, table.slice(0, 0))


def test_too_many_categories_cannot_all_be_known() -> None:
    names = [f"n{row % 20}" for row in range(40)]
    table = pa.table({"name": names, "y": [float(row) for row in range(40)]})
    with pytest.raises(InvalidArgument, match="max_categories") as caught:
        train("linear_regression", table, "y", {"max_categories": 5}, handle_unknown="error")
    assert caught.value.reason == "TOO_MANY_CATEGORIES"
    kept = train("linear_regression", table, "y", {"max_categories": 5}).model.columns[0].categories
    assert len(kept) == 5


@pytest.mark.parametrize(
    ("family", "hyperparameters", "words"),
    [
        ("linear_regression", {"optimizer": "rmsprop"}, "optimizer must be one of adam, sgd"),
        ("linear_regression", {"epoch": 3}, "no hyperparameter 'epoch': expected one of solver, optimizer, epochs"),
        ("linear_regression", {"epochs": 0}, "epochs must lie between 1 and 100000"),
        ("linear_regression", {"epochs": 2.5}, "whole number"),
        ("linear_regression", {"learning_rate": math.nan}, "must be a number"),
        ("linear_regression", {"learning_rate": 10**400}, "no double holds"),
        ("linear_regression", {"epochs": -(10**5000)}, "no double holds"),
        ("logistic_regression", {"c": "strong"}, "must be a number"),
        ("boosted_trees", {"n_estimators": True}, "must be a number"),
        ("random_forest", {}, "expected one of linear_regression, logistic_regression, boosted_trees"),
    ],
)
def test_unknown_settings_are_refused_naming_the_known(
    family: str, hyperparameters: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        train(family, inputs_and(mixed(), "value"), "value", hyperparameters)


def test_an_unknown_rule_for_categories_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="ignore, error"):
        train("boosted_trees", inputs_and(mixed(), "value"), "value", handle_unknown="skip")


def test_a_loss_that_is_no_number_stops() -> None:
    table = inputs_and(mixed(), "value")
    with pytest.raises(InvalidArgument, match="lower learning_rate") as caught:
        train("linear_regression", table, "value", {"optimizer": "sgd", "learning_rate": 10.0, "epochs": 50})
    assert caught.value.reason == "LOSS_DIVERGED"


def test_numbers_too_large_are_refused() -> None:
    table = pa.table({"x": [1e200, -1e200, 3e200, 1.0], "y": X})
    with pytest.raises(InvalidArgument, match="scale it"):
        train("linear_regression", table, "y")
    train("boosted_trees", table, "y", FEW_TREES)
