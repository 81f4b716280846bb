"""A model that reads texts: its tokenizer and its network, predicting, exported, stored and loaded again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from services.training.domain.families.frame import Array, Column
from services.training.domain.families.model import STATE_FILE, Description, Input, Predictions
from services.training.domain.families.single_column import row_texts
from services.training.domain.families.target import Target
from services.training.domain.families.text.tokens import token_ids

if TYPE_CHECKING:
    from services.training.domain.families.text.network import Classifier

TOKENIZER_FILE = "tokenizer.json"
_BATCH_ROWS = 64


@dataclass(frozen=True)
class TextModel:
    """A classifier of texts that was trained here.

    Args:
        family: its family.
        hyperparameters: as resolved.
        columns: the one with the texts.
        target: what it predicts.
        handle_unknown: ignore: what the tokenizer does not know is an unknown token.
        tokenizer: texts to token ids.
        network: token ids to log odds, in torch.
    """

    family: str
    hyperparameters: dict[str, int | float | str | bool]
    columns: tuple[Column, ...]
    target: Target
    handle_unknown: str
    tokenizer: Tokenizer
    network: "Classifier"

    def inputs(self) -> tuple[Input, ...]:
        """Return what the export takes: token ids and their mask, each of free length."""
        return tuple(Input(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask"))

    def predict(self, table: pa.Table) -> Predictions:
        """Return predictions for a table's rows.

        Raises:
            InvalidArgument: the column of texts lacks, or holds none in a row.
        """
        import torch

        found = np.zeros((table.num_rows, len(self.target.classes)))
        with torch.inference_mode():
            for places, feed in self._batches(table):
                odds = self.network(*(torch.from_numpy(values) for values in feed.values()))
                found[places] = odds.double().softmax(dim=1).numpy()
        return Predictions(found.argmax(axis=1), found)

    def feeds(self, table: pa.Table) -> Iterator[tuple[Array, dict[str, Array]]]:
        """Yield places of a table's rows, and these rows as the export takes them; texts of like length together."""
        yield from self._batches(table)

    def export(self) -> bytes:
        """Return the ONNX model: token ids and mask in; `prediction` and `probabilities` out."""
        import torch

        from services.training.domain.families.neural.export import export_classifier

        sample = torch.ones((2, 7), dtype=torch.int64)
        free = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
        names = [taken.name for taken in self.inputs()]
        return export_classifier(self.network, (sample, sample.clone()), names, (free, free), self.target)

    def files(self) -> dict[str, bytes]:
        """Return the trainable state, from which `load` makes the model again, and the tokenizer."""
        from services.training.domain.families.text.network import classifier_files

        return {
            STATE_FILE: Description.of(self).to_json(),
            TOKENIZER_FILE: self.tokenizer.to_str().encode(),
            **classifier_files(self.network),
        }

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Return the model that gave some files."""
        from services.training.domain.families.text.network import load_classifier

        tokenizer = Tokenizer.from_str(files[TOKENIZER_FILE].decode())
        return cls(**vars(Description.read(files)), tokenizer=tokenizer, network=load_classifier(files))

    def _batches(self, table: pa.Table) -> Iterator[tuple[Array, dict[str, Array]]]:
        rows = row_texts(table, self.columns)
        padding = self.network.config.pad_token_id
        order = np.argsort([len(text) for text in rows], kind="stable")
        for start in range(0, len(order), _BATCH_ROWS):
            places = order[start : start + _BATCH_ROWS]
            ids = token_ids(self.tokenizer, [rows[place] for place in places])
            yield places, {"input_ids": ids, "attention_mask": (ids != padding).astype(np.int64)}
