"""A model that reads texts: its tokenizer and its network, predicting, exported, stored and loaded again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from services.training.domain.families.frame import Array, Column
from services.training.domain.families.model import STATE_FILE, Description, Input, Predictions
from services.training.domain.families.target import EMBEDDING, Target
from services.training.domain.families.text.columns import Reading, readings
from services.training.domain.families.text.tokens import token_ids

if TYPE_CHECKING:
    from services.training.domain.families.text.embedder import Embedder
    from services.training.domain.families.text.network import Classifier

TOKENIZER_FILE = "tokenizer.json"
_BATCH_ROWS = 64


def shape_settings(config: Any, tokenizer: Tokenizer) -> dict[str, int | float | str | bool]:
    """Return the hyperparameters that an encoder is made by, of its configuration and its tokenizer."""
    return {
        "layers": int(config.num_hidden_layers),
        "hidden_size": int(config.hidden_size),
        "heads": int(config.num_attention_heads),
        "vocabulary": tokenizer.get_vocab_size(),
    }


@dataclass(frozen=True)
class TextModel:
    """A model of texts that was trained here: of classes, of what two texts are to each other, or of vectors.

    Args:
        family: its family.
        hyperparameters: as resolved.
        columns: the one with the texts, or the two whose texts are read together.
        target: what it predicts.
        handle_unknown: ignore: what the tokenizer does not know is an unknown token.
        tokenizer: texts to token ids.
        network: token ids to log odds, to a number, or to a vector, in torch.
    """

    family: str
    hyperparameters: dict[str, int | float | str | bool]
    columns: tuple[Column, ...]
    target: Target
    handle_unknown: str
    tokenizer: Tokenizer
    network: "Classifier | Embedder"

    @property
    def width(self) -> int:
        """How many numbers its encoder's vectors have."""
        return int(self.network.config.hidden_size)

    def inputs(self) -> tuple[Input, ...]:
        """Return what the export takes: token ids and their mask, each of free length."""
        return tuple(Input(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask"))

    def predict(self, table: pa.Table) -> Predictions:
        """Return predictions for a table's rows.

        Raises:
            InvalidArgument: the column of texts lacks, or holds none in a row.
        """
        found = self._answers(readings(table, self.columns))
        if self.target.task == EMBEDDING:
            return Predictions(found, None)
        if self.target.task == "regression":
            return Predictions(found[:, 0].astype(np.float64), None)
        odds = np.exp(found.astype(np.float64) - found.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        return Predictions(probabilities.argmax(axis=1), probabilities)

    def brought_along(self) -> dict[str, int | float | str | bool]:
        """Return the hyperparameters that a fine-tune has from this model, whatever its own say."""
        # The network draws as it was made to, the tokenizer cuts as it did, and phrases stay as they are.
        kept = ("dropout", "attention_dropout", "max_tokens", "phrases")
        found = {name: self.hyperparameters[name] for name in kept if name in self.hyperparameters}
        return found | shape_settings(self.network.config, self.tokenizer)

    def embed(self, texts: list[Reading]) -> Array:
        """Return (rows, size) vectors of texts, by a model that gives them."""
        return self._answers(texts)

    def feeds(self, table: pa.Table) -> Iterator[tuple[Array, dict[str, Array]]]:
        """Yield places of a table's rows, and these rows as the export takes them; texts of like length together."""
        yield from self._batches(readings(table, self.columns))

    def export(self) -> bytes:
        """Return the ONNX model: token ids and mask in; `prediction` and `probabilities`, or `embedding`, out."""
        import torch

        from services.training.domain.families.neural.export import export_network

        sample = torch.ones((2, 7), dtype=torch.int64)
        free = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
        names = [taken.name for taken in self.inputs()]
        return export_network(self.network, (sample, sample.clone()), names, (free, free), self.target)

    def files(self) -> dict[str, bytes]:
        """Return the trainable state, from which `load` makes the model again, and the tokenizer."""
        from services.training.domain.families.text.embedder import Embedder, embedder_files
        from services.training.domain.families.text.network import classifier_files

        network = self.network
        return {
            STATE_FILE: Description.of(self).to_json(),
            TOKENIZER_FILE: self.tokenizer.to_str().encode(),
            **(embedder_files(network) if isinstance(network, Embedder) else classifier_files(network)),
        }

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Return the model that gave some files."""
        from services.training.domain.families.text.embedder import load_embedder
        from services.training.domain.families.text.network import load_classifier

        tokenizer = Tokenizer.from_str(files[TOKENIZER_FILE].decode())
        description = Description.read(files)
        load = load_embedder if description.target.task == EMBEDDING else load_classifier
        return cls(**vars(description), tokenizer=tokenizer, network=load(files))

    def _answers(self, rows: list[Reading]) -> Array:
        """Return (rows, ...) what the network says, as it says it."""
        import torch

        found: list[tuple[Array, Array]] = []
        with torch.inference_mode():
            for places, feed in self._batches(rows):
                found.append((places, self.network(*(torch.from_numpy(values) for values in feed.values())).numpy()))
        order = np.argsort(np.concatenate([places for places, _ in found]))
        return np.asarray(np.concatenate([answers for _, answers in found])[order])

    def _batches(self, rows: list[Reading]) -> Iterator[tuple[Array, dict[str, Array]]]:
        padding = self.network.config.pad_token_id
        order = np.argsort([len(row) if isinstance(row, str) else sum(map(len, row)) for row in rows], kind="stable")
        for start in range(0, len(order), _BATCH_ROWS):
            places = order[start : start + _BATCH_ROWS]
            ids = token_ids(self.tokenizer, [rows[place] for place in places])
            yield places, {"input_ids": ids, "attention_mask": (ids != padding).astype(np.int64)}
