"""Tokens read as the parts they were joined from, drawn anew at each step: texts are few, ways to read them many.

Source: Provilkov, Emelianenko and Voita, BPE-Dropout: Simple and Effective Subword Regularization, ACL 2020. There
merges are left out before a text is tokenized, here they are undone after: it costs little, and follows from the seed.
"""

import json

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from services.training.domain.families.text.tokens import PAD_ID

# Parts may fall apart again.
_TURNS = 3


class TokenSplitting(nn.Module):
    """Reads some tokens as their two parts, and some of these as theirs.

    Args:
        tokenizer: by byte-pair encoding; of another one no token is split.
        share: of the joined tokens that are not read whole, 0 to 1.
        most_tokens: where rows that grow are cut.
    """

    first: Tensor
    second: Tensor

    def __init__(self, tokenizer: Tokenizer, share: float, most_tokens: int) -> None:
        super().__init__()
        self._share = 1.0 - (1.0 - share) ** (1.0 / _TURNS)
        self._most_tokens = most_tokens
        first, second = parts_of_tokens(tokenizer)
        # They follow from the tokenizer: no checkpoint holds them.
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return (rows, tokens) ids of the same texts, padded, for such ids."""
        for _ in range(_TURNS if self._share else 0):
            ids = self._split(ids)
        return ids[:, : self._most_tokens]

    def _split(self, ids: Tensor) -> Tensor:
        is_split = (torch.rand(ids.shape, device=ids.device) < self._share) & (self.first[ids] != PAD_ID)
        lengths = 1 + is_split.to(torch.int64)
        places = lengths.cumsum(dim=1) - lengths
        found = ids.new_full((len(ids), int(lengths.sum(dim=1).max())), PAD_ID)
        found.scatter_(1, places, torch.where(is_split, self.first[ids], ids))
        rows, _ = is_split.nonzero(as_tuple=True)
        found[rows, places[is_split] + 1] = self.second[ids[is_split]]
        return found


def parts_of_tokens(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """Return (tokens,) ids of the two parts each was joined from; padding for those that were not joined."""
    described = json.loads(tokenizer.to_str())["model"]
    of = described["vocab"]
    parts = torch.full((2, tokenizer.get_vocab_size()), PAD_ID)
    for one, other in reversed(described.get("merges", [])):
        parts[:, of[one + other]] = torch.tensor([of[one], of[other]])
    return parts[0], parts[1]
