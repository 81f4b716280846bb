"""The credit walk-through, as its README says to run it."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.platform import Platform

SCRIPT = Path(__file__).parents[2] / "examples" / "credit" / "walkthrough.py"


def test_three_ways_learn_from_four_hundred_loans_and_two_agree(platform: Platform) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=platform.environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    figures = {name: float(value) for name, value in re.findall(r"(\w+) (-?\d\.\d+)", done.stdout)}
    # Gradient descent looks for what least squares finds.
    assert figures["correlation"] > 0.95, done.stdout
    # 100 loans: a random order has 0.5, and 0.6 two standard errors above.
    assert figures["roc_auc"] > 0.6, done.stdout
    assert "100 loans" in done.stdout
