"""Pairs are scored and vectors learned from a pretrained encoder, too: with all layers, adapters, or the last alone."""

import numpy as np
import pyarrow as pa
import pytest

from servicekit.errors import InvalidArgument
from services.training.domain.families import fitting
from services.training.domain.families.model import Model
from services.training.domain.families.parity import measure_parity
from tests.training.families.text.test_pretrained import WORDS, fit, pretrained_files

# An export takes seconds: adapters are merged into it, the others are exported as what they are.
TRAINABLE = [
    pytest.param({}, id="all", marks=pytest.mark.slow),
    pytest.param({"trainable": "lora", "lora_rank": 2}, id="lora"),
    pytest.param({"trainable": "last"}, id="last", marks=pytest.mark.slow),
]


def _pairs(rows: int = 48, seed: int = 0) -> pa.Table:
    """Return texts of two words, and whether they are the same words."""
    draw = np.random.default_rng(seed)
    first = [draw.choice(WORDS, 2, replace=False) for _ in range(rows)]
    second = [words if place % 2 else draw.choice(WORDS, 2, replace=False) for place, words in enumerate(first)]
    texts = ([" ".join(words) for words in side] for side in (first, second))
    alike = ["alike" if place % 2 else "other" for place in range(rows)]
    return pa.table(dict(zip(("a", "b", "kind"), (*texts, alike), strict=True)))


@pytest.mark.parametrize("settings", TRAINABLE)
@pytest.mark.parametrize("architecture", ["bert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_pairs_are_scored(architecture: str, settings: dict[str, object]) -> None:
    table = _pairs()
    model = fit(pretrained_files(architecture, knows_pairs=True), table, "kind", settings)
    _says_the_same_everywhere(model, table)
    swapped = table.set_column(0, "a", table["b"]).set_column(1, "b", table["a"])
    found, of_swapped = model.predict(table).probabilities, model.predict(swapped).probabilities
    assert found is not None
    assert of_swapped is not None
    # What stands first counts: both are read, a separator between them.
    assert not np.allclose(found, of_swapped, atol=1e-6)


@pytest.mark.parametrize("settings", TRAINABLE)
def test_vectors_are_learned(settings: dict[str, object]) -> None:
    table = _pairs().drop_columns(["kind"])
    model = fit(pretrained_files(), table, "b", {"task": "embedding", **settings})
    _says_the_same_everywhere(model, table)
    vectors = model.predict(table).values
    assert vectors.shape == (table.num_rows, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_a_tokenizer_that_puts_nothing_between_two_texts_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="begin from an encoder that reads pairs") as caught:
        fit(pretrained_files(), _pairs(), "kind")
    assert caught.value.reason == "NO_PAIRS"


def _says_the_same_everywhere(model: Model, table: pa.Table) -> None:
    """Check that the export and the model that is loaded again say what the model says."""
    parity = measure_parity(model, model.export(), table)
    assert (parity.max_difference < 1e-5, parity.label_mismatches) == (True, 0)
    loaded, predicted = fitting.load(model.files()).predict(table), model.predict(table)
    np.testing.assert_array_equal(loaded.values, predicted.values)
