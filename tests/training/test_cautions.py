"""What in rows looks wrong: told precisely, and not told of rows that are as they should be."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine

from services.training.domain.cautions import caution_of_imbalance, caution_of_shared_rows, cautions_of_columns
from services.training.domain.families import fitting
from services.training.domain.families.target import Target, describe_target

EXAMPLES = Path(__file__).parents[2] / "examples"
DRAW = np.random.default_rng(5)
ROWS = 400
NOISE = DRAW.normal(size=ROWS)
YES = DRAW.random(ROWS) < 0.4
GOAL = 3 * NOISE + DRAW.normal(size=ROWS)
KIND = DRAW.integers(0, 3, ROWS)


def _target(table: pa.Table, classify: bool | None = None) -> Target:
    return describe_target(table, "y", classify=classify)


@pytest.mark.parametrize(
    ("column", "goal", "told"),
    [
        (YES, YES, "'c' is a copy of the target 'y': drop it"),
        (np.where(YES, "sold", "open"), YES, "'c' alone tells the target 'y' (ROC AUC 1.000 on 400 rows)"),
        (np.where(YES, 1.0, 0.0) + 0.1 * NOISE, YES, "'c' alone tells the target 'y' (ROC AUC 1.000"),
        # Neither rises nor falls with it: both ends are of one class.
        (np.where(YES, DRAW.choice([-9.0, 9.0], ROWS), NOISE), YES, "'c' alone tells the target 'y' (ROC AUC"),
        (np.array(["a", "b", "c"])[KIND], KIND, "'c' alone tells the target 'y' (accuracy 1.000"),
        (GOAL * 0.01 + 7, GOAL, "'c' alone tells the target 'y' (R2 1.0000"),
        # Only in the same order.
        (np.exp(GOAL), GOAL, "'c' alone tells the target 'y' (R2 1.0000"),
        ([f"customer {place}" for place in range(ROWS)], YES, "'c' has another value in each of 400 rows"),
        (DRAW.permutation(ROWS), YES, "'c' has another value in each of 400 rows"),
    ],
)
def test_column_that_gives_the_target_away_or_names_rows_is_told(column: Any, goal: Any, told: str) -> None:
    table = pa.table({"x": NOISE, "c": column, "y": goal})
    (found,) = cautions_of_columns(table, _target(table, classify=True if goal is KIND else None))
    assert f"column {told}" in found


@pytest.mark.parametrize(
    "column",
    [
        YES ^ (DRAW.random(ROWS) < 0.05),
        NOISE,
        # Amounts in cents: all different, as a wide range has it.
        DRAW.integers(0, 10_000_000, ROWS),
        pa.array([None] * 100 + [str(place % 7) for place in range(ROWS - 100)]),
        pa.array([None if place % 2 else float(place % 5) for place in range(ROWS)]),
    ],
)
def test_column_that_tells_much_or_nothing_is_not_told(column: Any) -> None:
    table = pa.table({"x": NOISE, "c": column, "y": YES})
    assert cautions_of_columns(table, _target(table)) == []


def test_integers_named_as_an_identifier_are_told() -> None:
    table = pa.table({"x": NOISE, "customer_id": DRAW.permutation(10_000_000)[:ROWS], "y": YES})
    assert "'customer_id' has another value" in cautions_of_columns(table, _target(table))[0]


def test_only_column_is_what_the_target_is_to_be_told_from() -> None:
    table = pa.table({"x": np.arange(200) / 10, "y": np.arange(200) / 5 + 1})
    assert cautions_of_columns(table, _target(table)) == []


def _imbalance(classes: list[str], weight: str = "none") -> list[str]:
    table = pa.table({"x": np.arange(len(classes)), "y": classes})
    return caution_of_imbalance(table, _target(table), weight)


def test_rare_class_is_named_with_its_share_and_what_to_do() -> None:
    (found,) = _imbalance(["no"] * 960 + ["yes"] * 40)
    assert "class 'yes' of 'y' is rare: 40 of 1,000 rows (4.0%)" in found
    assert "class_weight='balanced'" in found
    assert _imbalance(["no"] * 960 + ["yes"] * 40, "balanced") == []
    assert _imbalance(["no"] * 940 + ["yes"] * 60) == []


def test_one_of_many_equal_classes_is_not_rare() -> None:
    assert _imbalance([f"class {place % 30}" for place in range(900)]) == []


def test_rows_on_both_sides_of_the_split_are_told() -> None:
    table = pa.table({"x": NOISE, "c": pa.array([None if place % 3 else "a" for place in range(ROWS)]), "y": YES})
    others = pa.table({"x": DRAW.normal(size=80), "c": ["b"] * 80, "y": [True] * 80})
    held_out = pa.concat_tables([table.slice(300, 20), others])
    assert "at least 20 of 100 rows" in caution_of_shared_rows(table.slice(0, 350), held_out)[0]
    assert caution_of_shared_rows(table.slice(0, 300), held_out) == []


def test_rows_of_few_kinds_repeat_without_a_word() -> None:
    table = pa.table({"c": ["a", "b", "c", "d"] * 100, "y": [True, False] * 200})
    assert caution_of_shared_rows(table.slice(0, 300), table.slice(300)) == []


def _frame(load: Callable[..., Any]) -> pa.Table:
    return pa.Table.from_pandas(load(as_frame=True).frame.rename(columns={"target": "y"}), preserve_index=False)


def _csv(path: str, target: str) -> pa.Table:
    return pyarrow.csv.read_csv(EXAMPLES / path).rename_columns({target: "y"})


@pytest.mark.parametrize(
    ("load", "classify"),
    [
        (partial(_csv, "credit/german_credit.csv", "creditability"), None),
        (partial(_csv, "reviews/chinese_reviews.csv", "sentiment"), True),
        (partial(_frame, load_breast_cancer), True),
        (partial(_frame, load_digits), True),
        (partial(_frame, load_iris), True),
        (partial(_frame, load_wine), True),
        (partial(_frame, load_diabetes), False),
    ],
)
def test_real_tables_give_no_false_alarm(load: Callable[[], pa.Table], classify: bool | None) -> None:
    table = load()
    target = _target(table, classify)
    train, held_out = fitting.hold_out(table, target, 0)
    found = [] if "text" in table.column_names else cautions_of_columns(train, target)
    assert [*found, *caution_of_imbalance(train, target, "none"), *caution_of_shared_rows(train, held_out)] == []
