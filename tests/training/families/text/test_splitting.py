"""Tokens are read as the parts they were joined from: another reading of the same text."""

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from services.training.domain.families.text.splitting import TokenSplitting, parts_of_tokens
from services.training.domain.families.text.tokens import token_ids, train_tokenizer

TEXTS = ["the weather is fine", "the weather was fine and the rain is over", "服务很好", "fine rain"] * 3


def _tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 200, 64)


def _ids() -> Tensor:
    return torch.from_numpy(token_ids(_tokenizer(), TEXTS))


def _text(tokenizer: Tokenizer, ids: Tensor) -> str:
    return "".join(str(tokenizer.id_to_token(place)) for place in ids.tolist() if place)


def test_split_texts_are_the_same_texts_in_more_tokens() -> None:
    tokenizer, ids = _tokenizer(), _ids()
    torch.manual_seed(0)
    found = TokenSplitting(tokenizer, 0.5, 64)(ids)
    assert [_text(tokenizer, row) for row in found] == [_text(tokenizer, row) for row in ids]
    assert (found != 0).sum() > (ids != 0).sum()


def test_the_share_says_how_many_joined_tokens_are_not_read_whole() -> None:
    tokenizer = _tokenizer()
    first, _ = parts_of_tokens(tokenizer)
    token = int(first.nonzero()[0, 0])
    torch.manual_seed(0)
    found = TokenSplitting(tokenizer, 0.4, 64)(torch.full((4000, 1), token))
    assert (found[:, 0] != token).double().mean() == pytest.approx(0.4, abs=0.03)


def test_none_are_split_by_a_share_of_nothing_and_padding_never_is() -> None:
    ids = _ids()
    assert torch.equal(TokenSplitting(_tokenizer(), 0.0, 64)(ids), ids)
    padding = torch.zeros(3, 5, dtype=torch.int64)
    assert torch.equal(TokenSplitting(_tokenizer(), 0.9, 64)(padding), padding)


def test_rows_that_grow_are_cut() -> None:
    torch.manual_seed(0)
    assert TokenSplitting(_tokenizer(), 0.9, 6)(_ids()).shape == (len(TEXTS), 6)


def test_tokens_that_were_not_joined_from_others_stay_whole() -> None:
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "fine": 3}, unk_token="[UNK]"))
    ids = torch.tensor([[2, 3, 3], [2, 3, 0]])
    assert torch.equal(TokenSplitting(tokenizer, 0.9, 8)(ids), ids)
