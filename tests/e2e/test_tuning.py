"""Looking for hyperparameters, as a user does it: from Python and from a shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import lepton
from lepton.connection import Connection
from lepton.datasets import Dataset
from lepton.errors import FailedPrecondition, InvalidArgument
from lepton.studies import Budget
from tests.support.platform import Platform

CSV = Path(__file__).parents[2] / "examples" / "credit" / "german_credit.csv"


@pytest.fixture(scope="module")
def connection(platform: Platform) -> Connection:
    return platform.connect()


@pytest.fixture(scope="module")
def credit(connection: Connection) -> Dataset:
    return Dataset.import_file(CSV, name="credit-to-tune", label="creditability", connection=connection)


def test_model_is_tuned_and_shows_what_its_study_found(connection: Connection, credit: Dataset) -> None:
    model = lepton.LogisticRegression(name="tuned-credit", connection=connection, max_iterations=200)
    model.tune(
        credit, {"c": {"low": 0.001, "high": 10.0, "log": True}}, budget=Budget(trials=5), target="creditability"
    )
    assert model.trained_version().metrics["roc_auc"] > 0.6
    found = model.study()
    trials = found.trials()
    assert list(trials.index) == [1, 2, 3, 4, 5]
    assert found.metric == "log_loss"
    assert trials["best_value"].is_monotonic_decreasing
    # Or the default, where the best may be better by chance.
    assert (trials.loc[found.best_trial, "value"] == trials["value"].min()) == (not found.note)
    assert found.note in found.to_html()
    page = found.to_html()
    assert "<svg" in page
    assert "http" not in page
    assert model.job is not None
    assert list(model.job.trials().index) == [1, 2, 3, 4, 5]
    assert "c" in model.job.trials().columns


def test_model_of_no_study_says_so(connection: Connection, credit: Dataset) -> None:
    model = lepton.LogisticRegression(name="untuned", connection=connection).fit(credit, target="creditability")
    with pytest.raises(FailedPrecondition, match="no study"):
        model.study()


def test_unknown_hyperparameter_lists_the_known_ones(connection: Connection, credit: Dataset) -> None:
    with pytest.raises(InvalidArgument, match="expected one of c, "):
        lepton.LogisticRegression(connection=connection).tune(credit, {"depth": [1, 2]}, target="creditability")


def test_study_from_a_shell(platform: Platform, credit: Dataset) -> None:
    command = [sys.executable, "-m", "lepton.cli", "tune", "boosted_trees", credit.ref, "--target", "creditability"]
    more = ["--trials", "3", "--search", "num_leaves=4..32:log", "--search", "n_estimators=10,20", "--json"]
    done = subprocess.run([*command, *more], env=platform.environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)
    assert job["version"]
    listing = [sys.executable, "-m", "lepton.cli", "jobs", "trials", job["name"], "--json"]
    shown = subprocess.run(listing, env=platform.environment, check=True, capture_output=True, text=True)
    assert [trial["trial"] for trial in json.loads(shown.stdout)] == [1, 2, 3]
