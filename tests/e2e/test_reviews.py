"""The example of the reviews, as its README says to run it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.platform import Platform

SCRIPT = Path(__file__).parents[2] / "examples" / "reviews" / "train.py"


def _run(platform: Platform, *arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=platform.environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "probability_positive" in done.stdout
    found = re.search(r"'accuracy': ([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def test_a_few_reviews_are_learned_deployed_and_asked_about(platform: Platform) -> None:
    # A tenth of the rows and of the passes: better than a coin by far more than 2,000 tosses vary.
    assert _run(platform, "--rows", "800", "--epochs", "4", "--pretraining-epochs", "0") > 0.55


@pytest.mark.slow
def test_all_reviews_reach_what_a_linear_model_of_words_does(platform: Platform) -> None:
    assert _run(platform) >= 0.83
