"""A model that reads texts: its tokenizer and its network, predicting, exported, stored and loaded again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Array, Column, normalize, texts
from services.training.domain.families.model import STATE_FILE, WIRE_TYPES, Input, Predictions, label_values
from services.training.domain.families.target import Target
from services.training.domain.families.text.tokens import PAD_ID, token_ids

if TYPE_CHECKING:
    from services.training.domain.families.text.network import Classifier

TOKENIZER_FILE = "tokenizer.json"
_BATCH_ROWS = 64
_LOG_ODDS = "log_odds"


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
        from services.training.domain.families.text.network import export_classifier

        model = export_classifier(self.network, [_LOG_ODDS])
        graph = model.graph
        labels = numpy_helper.from_array(label_values(self.target), "labels")
        graph.initializer.append(labels)
        graph.node.extend(
            (
                helper.make_node("Softmax", [_LOG_ODDS], ["probabilities"], axis=1),
                helper.make_node("ArgMax", [_LOG_ODDS], ["best"], axis=1, keepdims=1),
                helper.make_node("Gather", ["labels", "best"], ["prediction"]),
            )
        )
        del graph.output[:]
        graph.output.extend(
            (
                helper.make_tensor_value_info("prediction", WIRE_TYPES[self.target.datatype], [None, 1]),
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, len(self.target.classes)]),
            )
        )
        return bytes(model.SerializeToString(deterministic=True))

    def files(self) -> dict[str, bytes]:
        """Return the trainable state, from which `load` makes the model again, and the tokenizer."""
        from services.training.domain.families.text.network import classifier_files

        description = {
            "family": self.family,
            "hyperparameters": self.hyperparameters,
            "columns": [asdict(column) for column in self.columns],
            "target": asdict(self.target),
            "handle_unknown": self.handle_unknown,
        }
        return {
            STATE_FILE: json.dumps(description, sort_keys=True).encode(),
            TOKENIZER_FILE: self.tokenizer.to_str().encode(),
            **classifier_files(self.network),
        }

    @classmethod
    def load(cls, files: Mapping[str, bytes]) -> Self:
        """Return the model that gave some files."""
        from services.training.domain.families.text.network import load_classifier

        description = json.loads(files[STATE_FILE])
        columns = tuple(Column(**{**column, "categories": ()}) for column in description["columns"])
        target = Target(**{**description["target"], "classes": tuple(description["target"]["classes"])})
        tokenizer = Tokenizer.from_str(files[TOKENIZER_FILE].decode())
        return cls(
            description["family"],
            description["hyperparameters"],
            columns,
            target,
            description["handle_unknown"],
            tokenizer,
            load_classifier(files),
        )

    def _batches(self, table: pa.Table) -> Iterator[tuple[Array, dict[str, Array]]]:
        rows = row_texts(table, self.columns)
        order = np.argsort([len(text) for text in rows], kind="stable")
        for start in range(0, len(order), _BATCH_ROWS):
            places = order[start : start + _BATCH_ROWS]
            ids = token_ids(self.tokenizer, [rows[place] for place in places])
            yield places, {"input_ids": ids, "attention_mask": (ids != PAD_ID).astype(np.int64)}


def describe_texts(table: pa.Table, target: str) -> tuple[Column, ...]:
    """Return the one column of a normalised table that holds texts, beside the target.

    Raises:
        InvalidArgument: there is none, or there are several columns.
    """
    names = [name for name in table.column_names if name != target]
    if len(names) != 1:
        listed = ", ".join(names[:50]) or "none"
        raise InvalidArgument(
            f"a family that reads texts takes one column beside the target {target!r}, got {listed}: drop "
            "the others (drop_columns)",
            reason="NOT_ONE_TEXT_COLUMN",
        )
    column = table.column(names[0])
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise InvalidArgument(f"column {names[0]!r} holds {column.type} values, no texts", reason="NOT_TEXT")
    found = (Column(names[0], "text", "BYTES", nullable=False),)
    row_texts(table, found)
    return found


def row_texts(table: pa.Table, columns: tuple[Column, ...]) -> list[str]:
    """Return the texts of a table's rows.

    Raises:
        InvalidArgument: the column lacks, holds no texts, or a row has none.
    """
    (column,) = columns
    table = normalize(table)
    if column.name not in table.column_names:
        raise InvalidArgument(f"the table lacks the columns {column.name}", reason="COLUMN_MISSING")
    try:
        values: list[str] = texts(table.column(column.name)).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidArgument(f"column {column.name!r} holds no texts", reason="COLUMN_TYPE") from error
    empty = next((place for place, text in enumerate(values) if not text.strip()), None)
    if empty is not None:
        raise InvalidArgument(
            f"row {empty + 1} has no text in {column.name!r}: drop such rows first (dropna, or the step drop_missing)",
            reason="TEXT_MISSING",
        )
    return values
