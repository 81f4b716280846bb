"""What a schema and a profile say against a job is found without reading rows."""

from collections.abc import Mapping

import pytest

from servicekit.errors import InvalidArgument
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.preflight import Learning, TableColumn, TableFacts, check_judging, check_learning
from services.training.domain.problems import Problems

ROWS = 10


def column(name: str, kind: str = "double", missing: int = 0, distinct: int = 10, **top: int) -> TableColumn:
    return TableColumn(name, kind, missing, distinct, top)


def reasons(
    family: str,
    columns: list[TableColumn],
    settings: Mapping[str, object] | None = None,
    rows: int = ROWS,
    handle_unknown: str = "ignore",
) -> list[str]:
    problems = Problems()
    resolved = resolve_hyperparameters(family, settings or {})
    check_learning(TableFacts("t@1", rows, columns), Learning(family, "y", resolved, handle_unknown), problems)
    try:
        problems.refuse()
    except InvalidArgument as error:
        return [*{error.reason: 0}, *[description for _, description in error.violations]]
    return []


GOOD = [column("x"), column("when", "timestamp[us]"), column("text", "string"), column("y")]


@pytest.mark.parametrize("family", ["linear_regression", "boosted_trees", "mlp", "logistic_regression"])
def test_a_good_table_has_no_problem(family: str) -> None:
    assert reasons(family, GOOD) == []


@pytest.mark.parametrize(
    ("family", "columns", "reason"),
    [
        ("linear_regression", [column("y")], "NO_INPUT_COLUMNS"),
        ("linear_regression", [column("x", missing=10), column("y")], "EMPTY_COLUMN"),
        ("linear_regression", [column("x", "binary"), column("y")], "UNSUPPORTED_COLUMN"),
        ("mlp", [column("x", "list<item: double>"), column("y")], "UNSUPPORTED_COLUMN"),
        ("mlp", [column("prediction"), column("y")], "RESERVED_NAME"),
        ("mlp", [column("x"), column("y", missing=1)], "TARGET_MISSING"),
        ("mlp", [column("x"), column("y", distinct=1)], "TARGET_CONSTANT"),
        ("linear_regression", [column("x"), column("y", "string")], "TARGET_NOT_NUMERIC"),
        ("mlp", [column("x"), column("y", "list<item: double>")], "TARGET_IS_SERIES"),
        ("boosted_trees", [column("x"), column("y", "string", distinct=5_000)], "TOO_MANY_CLASSES"),
        ("logistic_regression", [column("x"), column("y", "int64", distinct=5_000)], "TOO_MANY_CLASSES"),
        ("boosted_trees", [column("x"), column("y", "string", distinct=2, a=9, b=1)], "CLASS_SEEN_ONCE"),
        ("rnn", [column("x"), column("y", "string", distinct=2)], "NO_SERIES"),
        ("rnn", [column("x", "list<item: double>", missing=1), column("y", "string")], "SERIES_MISSING"),
        ("transformer", [column("x"), column("y", "string")], "NOT_TEXT"),
        ("transformer", [column("a", "string", missing=2), column("y", "string")], "TEXT_MISSING"),
        ("transformer", [column(name, "string") for name in "abcy"], "NOT_ONE_TEXT_COLUMN"),
        ("cnn", [column("a", "string"), column("b", "string"), column("y", "string")], "NOT_ONE_TEXT_COLUMN"),
    ],
)
def test_what_the_profile_shows_is_refused(family: str, columns: list[TableColumn], reason: str) -> None:
    assert reasons(family, columns)[0] == reason


def test_too_few_rows_and_every_other_problem_are_named_together() -> None:
    columns = [column("a", missing=1), column("b", missing=1), column("c", "struct<x: int64>"), column("y", missing=1)]
    found = reasons("linear_regression", columns, rows=1)
    assert found[0] == "TOO_FEW_ROWS"
    assert len(found) == 1 + 5
    assert all(any(f"column '{name}'" in text for text in found) for name in "abc")


def test_a_strict_model_knows_every_category() -> None:
    columns = [column("x", "string", distinct=200), column("y")]
    assert reasons("mlp", columns, handle_unknown="error")[0] == "TOO_MANY_CATEGORIES"
    assert reasons("mlp", columns, {"max_categories": 300}, handle_unknown="error") == []


def test_rows_that_judge_need_every_column_of_the_model() -> None:
    problems = Problems()
    table = TableFacts("t@1", 0, [column("x")])
    check_judging(table, "y", ["x", "a", "b"], "spec.dataset", problems, "m@1")
    with pytest.raises(InvalidArgument) as refusal:
        problems.refuse()
    texts = [description for _, description in refusal.value.violations]
    assert [text.split(",")[0] for text in texts] == [
        "t@1 has no row to score",
        "t@1 lacks the target column 'y'",
        "t@1 lacks the column 'a'",
        "t@1 lacks the column 'b'",
    ]


def test_hyperparameters_that_are_wrong_are_named_together() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        resolve_hyperparameters("mlp", {"epochs": 0, "learning_rate": -1.0, "task": "guess", "trees": 1, "dropout": 2})
    assert len(refusal.value.violations) == 5
    with pytest.raises(InvalidArgument, match="multiple of heads"):
        resolve_hyperparameters("transformer", {"hidden_size": 10, "heads": 4})
