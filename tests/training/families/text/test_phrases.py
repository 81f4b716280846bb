"""Phrases: a linear model of tokens and their neighbours, beside the encoder and in the same graph."""

import numpy as np
import pytest
import torch

from services.training.domain.families.frame import Array
from services.training.domain.families.model import Run, Stopped
from services.training.domain.families.text.phrases import Phrases, fit_phrases, joined_from
from services.training.domain.families.text.tokens import token_ids, train_tokenizer

_WORDS = ["nice", "fine", "awful", "poor", "the room", "服务", "book"]


def _rows(rows: int = 200, seed: int = 0) -> tuple[list[str], Array]:
    """Return texts with a good or bad word, or with not before it, which turns it around; and which are glad."""
    draw = np.random.default_rng(seed)
    words, is_not = draw.integers(0, 4, rows), draw.random(rows) < 0.5
    texts = [
        f"{_WORDS[draw.integers(4, 7)]} is {'not ' if turned else ''}{_WORDS[word]}"
        for word, turned in zip(words, is_not, strict=True)
    ]
    return texts, ((words < 2) != is_not).astype(np.int64)


def _fit(stops: bool = False) -> tuple[Phrases, Array, Array]:
    texts, truth = _rows()
    tokenizer = train_tokenizer(texts, 200, 16)
    ids = token_ids(tokenizer, texts)
    return fit_phrases(ids, truth, np.ones(2), tokenizer, Run({}, 0, lambda _: None, lambda: stops)), ids, truth


def test_neighbours_tell_what_words_alone_do_not() -> None:
    phrases, ids, truth = _fit()
    found = phrases(torch.from_numpy(ids)).argmax(dim=1).numpy()
    assert (found == truth).mean() > 0.99


def test_padding_and_texts_beside_it_change_no_answer() -> None:
    phrases, ids, _ = _fit()
    rows = torch.from_numpy(ids)
    padded = torch.nn.functional.pad(rows, (0, 4))
    torch.testing.assert_close(phrases(padded)[3:4], phrases(rows[3:4]))


def test_same_rows_give_the_same_weights_to_the_bit() -> None:
    first, again = _fit()[0], _fit()[0]
    assert torch.equal(first.table, again.table)
    assert torch.equal(first.bias, again.bias)


def test_a_text_of_nothing_that_is_known_has_the_odds_of_the_bias() -> None:
    phrases = _fit()[0]
    torch.testing.assert_close(phrases(torch.tensor([[2, 1, 1], [2, 0, 0]])), phrases.bias.expand(2, 2))


def test_a_token_says_what_the_pieces_say_that_it_was_joined_from() -> None:
    tokenizer = train_tokenizer(["nice"] * 4, 200, 16)
    parts = joined_from(tokenizer).toarray()
    of = tokenizer.get_vocab()
    assert {name for name, place in of.items() if parts[of["nice"], place]} >= {"nice", "n", "i", "c", "e"}
    assert parts[of["n"]].sum() == 1.0
    assert set(np.unique(parts)) == {0.0, 1.0}


def test_three_classes_have_odds_each() -> None:
    texts = ["red rose", "green grass", "blue sky"] * 20
    tokenizer = train_tokenizer(texts, 200, 16)
    ids, truth = token_ids(tokenizer, texts), np.tile(np.arange(3), 20)
    phrases = fit_phrases(ids, truth, np.ones(3), tokenizer, Run({}, 0, lambda _: None, lambda: False))
    assert (phrases(torch.from_numpy(ids)).argmax(dim=1).numpy() == truth).all()


def test_many_classes_do_not_make_it_large() -> None:
    assert Phrases(4000, 2).table.numel() < 300_000
    assert Phrases(4000, 50).table.numel() < 500_000


def test_a_fit_can_be_stopped() -> None:
    with pytest.raises(Stopped):
        _fit(stops=True)
