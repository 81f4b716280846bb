"""Texts to token tensors, as a version's tokenizer.json says. The tokenizers library reads it: it holds no code."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
from tokenizers import Encoding, Tokenizer

from servicekit.errors import FailedPrecondition, InvalidArgument
from services.inference.serving.model import NUMPY_TYPES, Array, InputSpec, Item

_FILE = "tokenizer.json"
_INPUTS = frozenset(("input_ids", "attention_mask", "token_type_ids"))
# A text that the file does not cut may be as long as most encoders read; one that it cuts, no longer than this.
_DEFAULT_TOKENS = 512
_MOST_TOKENS = 8192
# Before any token is counted: what a text may cost.
_MOST_CHARACTERS = 100_000
# Padded tokens of one run, and texts.
_BATCH_TOKENS = 16_384
_BATCH_TEXTS = 64


class TextReader:
    """Makes a model's inputs of texts.

    Args:
        tokenizer: as the file describes it.
        inputs: the model's.
    """

    takes = "texts"

    def __init__(self, tokenizer: Tokenizer, inputs: Mapping[str, InputSpec]) -> None:
        self._inputs = dict(inputs)
        fixed = [spec.shape[1] for spec in inputs.values() if spec.shape[1] > 0]
        self._width = fixed[0] if fixed else 0
        # A graph for one text at a time says so.
        self._batch = 1 if any(spec.shape[0] == 1 for spec in inputs.values()) else _BATCH_TEXTS
        self._padding = tokenizer.padding or {}
        self._most_tokens = _limit_tokens(tokenizer, self._width)
        # Texts are padded by the batch they run in, or to what the graph fixes.
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._pad_id = _pad_id(tokenizer, self._padding)

    @classmethod
    def load(cls, content: bytes, inputs: Mapping[str, InputSpec]) -> Self | None:
        """Return the reader of a tokenizer.json; None where the model takes no tokens.

        Raises:
            FailedPrecondition: the file describes no tokenizer.
        """
        if not _takes_tokens(inputs):
            return None
        try:
            tokenizer = Tokenizer.from_str(content.decode())
        except BaseException as error:
            # A panic of the library is no Exception; an interrupt is none of its own.
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise FailedPrecondition(
                f"{_FILE} describes no tokenizer: {str(error)[:200]}", reason="PREPROCESSING_UNREADABLE"
            ) from error
        return cls(tokenizer, inputs)

    def batches(self, texts: Sequence[Item]) -> Iterator[dict[str, Array]]:
        """Yield the inputs of as many texts, or pairs of them, as run together, in order. Blocks: use a thread.

        Raises:
            InvalidArgument: a text is too long, or holds no token, or is none of a pair; the violation names it.
        """
        batch: list[Encoding] = []
        for index, text in enumerate(texts):
            encoding = self._encoded_pair(index, text) if isinstance(text, tuple) else self._encoded(index, str(text))
            width = max(len(item.ids) for item in (*batch, encoding))
            if batch and (len(batch) == self._batch or width * (len(batch) + 1) > _BATCH_TOKENS):
                yield self._arrays(batch)
                batch = []
            batch.append(encoding)
        if batch:
            yield self._arrays(batch)

    def _encoded(self, index: int, text: str) -> Encoding:
        place = f"texts[{index}]"
        _check_characters(place, len(text))
        encoding = self._tokenizer.encode(text)
        if not encoding.ids:
            raise _refused(place, "a text with a token in it", repr(text[:60]), "TEXT_EMPTY")
        return self._checked(place, encoding)

    def _encoded_pair(self, index: int, pair: tuple[str, str]) -> Encoding:
        place = f"text_pairs[{index}]"
        _check_characters(place, sum(len(text) for text in pair))
        for side, text in zip(("first", "second"), pair, strict=True):
            # As in training: what is missing is nothing to anything.
            if not text.strip():
                raise _refused(f"{place}.{side}", "a text", repr(text[:60]), "TEXT_EMPTY")
        try:
            encoding = self._tokenizer.encode(*pair)
        except Exception as error:
            # A file that cuts only one of the two texts cannot always cut enough of it.
            raise _refused(place, f"at most {self._most_tokens:,} tokens", str(error)[:100], "TEXT_TOO_LONG") from error
        return self._checked(place, encoding)

    def _checked(self, place: str, encoding: Encoding) -> Encoding:
        if len(encoding.ids) > self._most_tokens:
            raise _refused(place, f"at most {self._most_tokens:,} tokens", f"{len(encoding.ids):,}", "TEXT_TOO_LONG")
        return encoding

    def _arrays(self, batch: list[Encoding]) -> dict[str, Array]:
        width = self._width or max(len(encoding.ids) for encoding in batch)
        columns = {
            "input_ids": [encoding.ids for encoding in batch],
            "attention_mask": [encoding.attention_mask for encoding in batch],
            "token_type_ids": [encoding.type_ids for encoding in batch],
        }
        pads = {"input_ids": self._pad_id, "token_type_ids": int(self._padding.get("pad_type_id", 0))}
        return {
            name: self._padded(columns[name], width, pads.get(name, 0), NUMPY_TYPES[spec.datatype])
            for name, spec in self._inputs.items()
        }

    def _padded(self, rows: list[list[int]], width: int, pad: int, kind: type[np.generic]) -> Array:
        array: Array = np.full((len(rows), width), pad, dtype=kind)
        is_left = self._padding.get("direction") == "left"
        for place, row in enumerate(rows):
            target = slice(width - len(row), width) if is_left else slice(0, len(row))
            array[place, target] = row
        return array


def _takes_tokens(inputs: Mapping[str, InputSpec]) -> bool:
    return (
        "input_ids" in inputs
        and set(inputs) <= _INPUTS
        and all(
            len(spec.shape) == 2 and spec.shape[0] in (-1, 1) and spec.datatype in ("INT32", "INT64")
            for spec in inputs.values()
        )
    )


def _limit_tokens(tokenizer: Tokenizer, width: int) -> int:
    """Cut texts where the file says so, yet never longer than the graph or this process takes; return the most."""
    most = width or _MOST_TOKENS
    declared = tokenizer.truncation
    if not declared:
        return width or _DEFAULT_TOKENS
    length = min(most, int(declared["max_length"]))
    tokenizer.enable_truncation(
        length,
        stride=int(declared["stride"]),
        strategy=str(declared["strategy"]),
        direction=str(declared["direction"]),
    )
    return length


def _pad_id(tokenizer: Tokenizer, padding: Mapping[str, object]) -> int:
    if "pad_id" in padding:
        return int(str(padding["pad_id"]))
    known = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((number for number in known if number is not None), 0)


def _check_characters(place: str, characters: int) -> None:
    if characters > _MOST_CHARACTERS:
        raise _refused(place, f"at most {_MOST_CHARACTERS:,} characters", f"{characters:,}", "TEXT_TOO_LONG")


def _refused(place: str, expected: str, got: str, reason: str) -> InvalidArgument:
    return InvalidArgument(
        f"{place}: expected {expected}, got {got}",
        reason=reason,
        violations=[(place, f"expected {expected}, got {got}")],
    )
