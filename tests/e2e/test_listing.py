"""The published listing runs unchanged."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from tests.support.platform import Platform

LISTING = """\
from leptonai.utils import load_data
data = load_data('creditcard.csv')
data = data.dropna()
data = data.drop(columns=['Column 1', 'Column 2', 'Column 3', 'Column 4'])
data = data.drop_duplicates()
from leptonai.models import LinearRegression, Transformer
model = LinearRegression()
model.fit(data)
from leptonai.evaluation import evaluate
evaluate(model, data)
model = model.fine_tune(data, optimizer='sgd', epochs=10)
from leptonai.deployment import Deploy
Deploy(model).save()
result = Deploy(model).predict(data)
"""

_CHECKS = """
assert list(result.index) == list(data.index)
assert result.columns[0] == data.columns[-1] == 'Class', result.columns
assert len(result) == len(data) == 199, len(data)
error = (result['Class'] - data['Class']).abs().mean()
assert error < 0.3, error
assert model.version.message.lineage.parent.endswith('@1')
assert Deploy(model).save().status().number == model.version.message.number
recipe = [step.WhichOneof('kind') for step in data.lineage.recipe.steps]
assert recipe == ['drop_missing', 'drop_columns', 'drop_duplicates'], recipe
print('the listing ran')
"""


def test_published_listing_runs_unchanged(platform: Platform, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    table = pd.DataFrame({f"Column {place}": generator.normal(size=200) for place in range(1, 5)})
    for place in range(1, 7):
        table[f"V{place}"] = generator.normal(size=200)
    table["Class"] = (table["V1"] + 0.5 * table["V2"] > 0.3).astype(int)
    table.loc[0, "V3"] = None
    table.to_csv(tmp_path / "creditcard.csv", index=False)
    ran = subprocess.run(
        [sys.executable, "-c", LISTING + _CHECKS],
        cwd=tmp_path,
        env={**platform.environment, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "the listing ran" in ran.stdout
    assert "predicting the last column, 'Class'" in ran.stderr
    assert "its scores say nothing of new rows" in ran.stderr
