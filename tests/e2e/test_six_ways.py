"""Evaluate, score, predict by frame, by rows, by file, by tensors and by JSON: one answer for the same rows."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

import lepton
from lepton import errors
from tests.e2e.six_ways import SixWays, Table, later_tables, training_table
from tests.support.platform import Platform

# `make test-six-ways` asks for 1,000.
TABLES = int(os.environ.get("LEPTON_SIX_WAYS_TABLES", "3"))


@pytest.fixture(scope="module")
def classes(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> SixWays:
    folder = tmp_path_factory.mktemp("classes")
    return SixWays(platform, lepton.LogisticRegression, "label", folder)


@pytest.fixture(scope="module")
def values(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> SixWays:
    folder = tmp_path_factory.mktemp("values")
    return SixWays(platform, lepton.BoostedTrees, "value", folder, n_estimators=20, min_child_samples=5)


def _check(ways: SixWays, table: Table, number: int) -> None:
    answers = ways.answers(table, number)
    expected = answers.pop("rows")
    assert len(expected) == table.rows
    for way, found in answers.items():
        if ways.target == "value":
            np.testing.assert_allclose(found.astype(float), expected, rtol=1e-9, err_msg=f"{way}: {table}")
        else:
            assert found.astype(str).tolist() == expected.astype(str).tolist(), (way, table)


def test_classes_are_the_same_in_every_way(classes: SixWays) -> None:
    for number, table in enumerate(later_tables(-(-TABLES // 2), 1)):
        _check(classes, table, number)


def test_values_are_the_same_in_every_way(values: SixWays) -> None:
    for number, table in enumerate(later_tables(TABLES // 2 + 1, 2)):
        _check(values, table, number)


def test_a_job_scores_what_the_ways_predict_and_the_command_prints_it(classes: SixWays, tmp_path: Path) -> None:
    # Of this file alone every text column would be of numbers, truth values or dates.
    columns = {name: texts[:12] for name, texts in training_table().columns.items() if name != "value"}
    columns |= {"code": ["007", "12", " 5"] * 4, "flag": ["True", "FALSE", "true"] * 4, "day": ["2020-01-01"] * 12}
    columns |= {"label": ["008", "8"] * 6}
    table = Table(columns)
    with warnings.catch_warnings():
        # Everything is known.
        warnings.simplefilter("error", errors.UnknownCategoryWarning)
        scores = lepton.evaluate(classes.model, classes.import_table(table, 900))
        predicted = classes.deployment.predict_rows(table.to_records())["label"]
    assert scores.unknown_categories == {}
    assert scores["accuracy"] == pytest.approx((predicted == columns["label"]).mean())
    path = tmp_path / "rows.csv"
    path.write_text(table.to_csv(), encoding="utf-8")
    told = classes.platform.lepton("predict", classes.name, str(path), "--json")
    assert [row["label"] for row in json.loads(told.stdout)] == predicted.tolist()
    assert "unknown" not in told.stderr


def test_unknown_categories_are_told_in_every_way(classes: SixWays, tmp_path: Path) -> None:
    columns = {name: texts[:12] for name, texts in training_table().columns.items() if name != "value"}
    table = Table({**columns, "code": ["7", "5", "12"] * 4, "flag": ["TRUE"] * 12})
    assert table.unknown() == {"code": 8, "flag": 12}
    told = "67% of 'code' are unknown categories (8 of 12 rows)"
    data = classes.import_table(table, 901)
    with pytest.warns(errors.UnknownCategoryWarning) as by_rows:
        classes.deployment.predict_rows(table.to_records())
    assert told in str(by_rows[0].message)
    with pytest.warns(errors.UnknownCategoryWarning) as by_score:
        classes.deployment.score(data, name="six-ways-unknown")
    assert told in str(by_score[0].message)
    path = tmp_path / "rows.csv"
    path.write_text(table.to_csv(), encoding="utf-8")
    with pytest.warns(errors.UnknownCategoryWarning) as by_file:
        classes.deployment.predict_file(path)
    assert told in str(by_file[0].message)
    with pytest.warns(errors.DataWarning) as by_job:
        scores = lepton.evaluate(classes.model, data)
    assert any(told in str(warning.message) for warning in by_job)
    assert scores.unknown_categories == {"code": pytest.approx(8 / 12), "flag": 1.0}
    assert told in classes.platform.lepton("predict", classes.name, str(path)).stderr
    parameters = classes.rest_reply(table)["parameters"]
    assert json.loads(parameters["lepton_unknown_categories"]) == {"code": 8, "flag": 12}
