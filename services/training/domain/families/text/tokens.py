"""Texts to token ids, by the tokenizers library. What it learned travels with the model as its tokenizer.json."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from services.training.domain.families.frame import Array

PADDING, UNKNOWN, START, SEPARATOR = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
# In this order: padding is 0. Only tokenizers of pairs have the last.
PAD_ID, UNKNOWN_ID, START_ID, SEPARATOR_ID = 0, 1, 2, 3
_SPECIAL = [PADDING, UNKNOWN, START]
# Languages that write no spaces would else have whole sentences as tokens.
_LONGEST_TOKEN = 16
# What hides a token; ours has no mask.
_HIDING = ("[MASK]", "<mask>", UNKNOWN, "<unk>")


@dataclass(frozen=True)
class SpecialIds:
    """Ids of tokens that stand for no piece of a text.

    Args:
        hiding: read in place of a token that is hidden.
        all: every one.
    """

    hiding: int
    all: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialIds":
        """Return a tokenizer's."""
        special = tuple(sorted(key for key, token in tokenizer.get_added_tokens_decoder().items() if token.special))
        known = (tokenizer.token_to_id(token) for token in _HIDING)
        return cls(next((number for number in known if number is not None), 0), special)


def train_tokenizer(texts: Sequence[str], vocabulary: int, most_tokens: int, *, for_pairs: bool = False) -> Tokenizer:
    """Return a tokenizer of the pieces that texts are made of most often (byte-pair encoding).

    The same texts give the same tokenizer.

    Args:
        texts: to learn from.
        vocabulary: most pieces, the special ones included.
        most_tokens: where longer texts are cut; of a pair, the longer text.
        for_pairs: whether two texts are read together, a separator between them.
    """
    special = [*_SPECIAL, SEPARATOR] if for_pairs else _SPECIAL
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    # Full-width letters and digits are the same as others; so are capitals.
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=special,
        max_token_length=_LONGEST_TOKEN,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, len(texts))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A",
        pair=f"{START} $A {SEPARATOR} $B:1" if for_pairs else None,
        special_tokens=[(token, place) for place, token in enumerate(special) if token in (START, SEPARATOR)],
    )
    tokenizer.enable_truncation(most_tokens)
    tokenizer.enable_padding(pad_id=PAD_ID, pad_token=PADDING)
    return tokenizer


def is_own(tokenizer: Tokenizer) -> bool:
    """Return whether it was trained here: its special tokens stand where ours do."""
    return all(tokenizer.token_to_id(token) == place for place, token in enumerate(_SPECIAL))


def token_ids(tokenizer: Tokenizer, texts: Sequence[str | tuple[str, str]]) -> Array:
    """Return (rows, tokens) int64 ids of texts, or of pairs read together, padded to the longest."""
    return np.array([one.ids for one in tokenizer.encode_batch(list(texts))], dtype=np.int64).reshape(len(texts), -1)
