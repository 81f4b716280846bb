"""Small Transformers and what they learn from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from services.training.domain.families import fitting
from services.training.domain.families.catalog import resolve_hyperparameters
from services.training.domain.families.model import Run
from services.training.domain.families.text.model import TextModel

REVIEWS = Path(__file__).parents[4] / "examples" / "reviews" / "chinese_reviews.csv"
TINY: dict[str, object] = {
    "layers": 1,
    "hidden_size": 32,
    "heads": 2,
    "vocabulary": 100,
    "max_tokens": 16,
    "epochs": 1,
    "pretraining_epochs": 0,
    "dropout": 0.0,
    "token_dropout": 0.0,
    "learning_rate": 5e-3,
    "batch_size": 64,
}
EMBED: dict[str, object] = {"task": "embedding", "vocabulary": 2000, "max_tokens": 64}
_WORDS = ["red", "green", "blue", "big", "small", "old", "new"]


def fit(
    table: pa.Table,
    target: str,
    settings: Mapping[str, object] | None = None,
    *,
    seed: int = 0,
    base: TextModel | None = None,
) -> TextModel:
    """Fit a tiny Transformer."""
    resolved = resolve_hyperparameters("transformer", {**TINY, **(settings or {})})
    schema = fitting.describe("transformer", table, target, resolved, base=base)
    model = fitting.fit("transformer", schema, table, Run(resolved, seed, lambda _: None, lambda: False), base)
    assert isinstance(model, TextModel)
    return model


def shared_words(rows: int = 800, seed: int = 0) -> pa.Table:
    """Return pairs of three words each, the number of words in both, and whether these are most: neither text tells."""
    draw = np.random.default_rng(seed)
    first, second = ([draw.choice(_WORDS, 3, replace=False) for _ in range(rows)] for _ in range(2))
    shared = np.array([len({*a} & {*b}) for a, b in zip(first, second, strict=True)])
    texts = ([" ".join(words) for words in side] for side in (first, second))
    alike = np.where(shared > 1, "alike", "other").tolist()
    return pa.table(dict(zip(("a", "b", "shared", "kind"), (*texts, 100.0 + 10.0 * shared, alike), strict=True)))


def halves(rows: int, start: int = 0) -> pa.Table:
    """Return real reviews, each cut in two somewhere in its middle third: lengths of parts tell little."""
    texts = pyarrow.csv.read_csv(REVIEWS).column("text").to_pylist()
    chosen = [text for text in texts if 30 <= len(text) <= 120][start : start + rows]
    draw = np.random.default_rng(start)
    cuts = [int(draw.integers(len(text) // 3, 2 * len(text) // 3)) for text in chosen]
    return pa.table(
        {
            "first": [text[:cut] for text, cut in zip(chosen, cuts, strict=True)],
            "second": [text[cut:] for text, cut in zip(chosen, cuts, strict=True)],
        }
    )
