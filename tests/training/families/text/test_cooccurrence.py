"""First vectors of tokens: alike where tokens stand beside the same ones."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from services.training.domain.families.frame import Array
from services.training.domain.families.text.cooccurrence import begin_from_neighbours, vectors_from_neighbours
from services.training.domain.families.text.tokens import PAD_ID, START_ID, UNKNOWN_ID


def _texts(rows: int = 400) -> Array:
    """Return texts in which 3 and 4 stand among 10 to 19, and 5 among 20 to 29; 30 to 39 in none."""
    draw = np.random.default_rng(0)
    texts = np.full((rows, 8), PAD_ID)
    for text in texts:
        word = draw.integers(3, 6)
        text[:6] = [START_ID, UNKNOWN_ID, *draw.integers(20 if word == 5 else 10, 30 if word == 5 else 20, 4)]
        text[3] = word
    return texts


def _likeness(vectors: Array, one: int, other: int) -> float:
    return float(vectors[one] @ vectors[other] / np.linalg.norm(vectors[one]) / np.linalg.norm(vectors[other]))


def test_tokens_beside_the_same_ones_have_like_vectors() -> None:
    vectors = vectors_from_neighbours(_texts(), 40, 8, 0)
    assert _likeness(vectors, 3, 4) > 0.9
    assert abs(_likeness(vectors, 3, 5)) < 0.3


def test_vectors_are_of_the_spread_that_networks_begin_with_and_zero_where_nothing_was_seen() -> None:
    vectors = vectors_from_neighbours(_texts(), 40, 8, 0)
    seen = [3, 4, 5, *range(10, 30)]
    assert np.sqrt(np.square(vectors[seen]).mean()) == pytest.approx(8**-0.5, rel=1e-4)
    assert not np.delete(vectors, seen, axis=0).any()


def test_same_texts_and_seed_give_the_same_vectors_to_the_bit() -> None:
    first, again = (vectors_from_neighbours(_texts(), 40, 8, 7) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("ids", [np.full((3, 1), START_ID), np.array([[START_ID, 5], [START_ID, 6]])])
def test_texts_without_neighbours_give_zeros(ids: Array) -> None:
    assert not vectors_from_neighbours(ids, 10, 4, 0).any()


def test_vectors_may_be_longer_than_tokens_are_many() -> None:
    vectors = vectors_from_neighbours(_texts() % 10, 10, 16, 0)
    assert vectors.shape == (10, 16)
    assert np.isfinite(vectors).all()


def test_tokens_in_no_text_keep_their_random_vectors() -> None:
    config = BertConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    encoder = BertModel(config, add_pooling_layer=False)
    table = encoder.get_input_embeddings().weight
    before = table.detach().clone()
    begin_from_neighbours(encoder, _texts(), 0)
    seen = [3, 4, 5, *range(10, 30)]
    assert torch.equal(table[30:], before[30:])
    assert torch.equal(table[:3], before[:3])
    np.testing.assert_array_equal(table[seen].detach(), vectors_from_neighbours(_texts(), 40, 8, 0)[seen])
