"""The example of the sentences, as its README says to run it: few labels, and a pretrained encoder."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.support.platform import Platform

FOLDER = Path(__file__).parents[2] / "examples" / "sentences"
TEST_ROWS, LABELS = 793, 200


def _linear() -> float:
    """Return the accuracy of the better of two linear models of word counts on the same rows."""
    rows = pd.read_csv(FOLDER / "product_sentences.csv")
    learned, judged = rows.iloc[:-TEST_ROWS].head(LABELS), rows.iloc[-TEST_ROWS:]
    models = [make_pipeline(TfidfVectorizer(), LogisticRegression(C=c, max_iter=1000)) for c in (1.0, 10.0)]
    return max(
        float(model.fit(learned["text"], learned["sentiment"]).score(judged["text"], judged["sentiment"]))
        for model in models
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("trainable", ["all", "lora", "last"])
def test_few_labels_on_a_pretrained_encoder_beat_a_linear_model_of_words(platform: Platform, trainable: str) -> None:
    command = [sys.executable, str(FOLDER / "fine_tune.py"), "--trainable", trainable]
    done = subprocess.run(command, env=platform.environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "probability_positive" in done.stdout
    found = re.search(r"'accuracy': ([\d.]+)", done.stdout)
    assert found, done.stdout
    assert float(found[1]) > _linear() + 0.05
