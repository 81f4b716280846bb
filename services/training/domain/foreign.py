"""Scoring a model that was made elsewhere: what is known of it is its graph and what its inputs are named."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.training.domain.families.encoding import wire_values
from services.training.domain.families.frame import Array, Column, normalize
from services.training.domain.families.metrics import Judgement, Scores
from services.training.domain.families.model import Predictions
from services.training.domain.families.target import Target, label_text, target_values

_TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_FRACTIONS = ("FP16", "FP32", "FP64")
# Rows at a time: what a graph takes in between may be many times its input.
_BATCH_ROWS = 4096


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Args:
        name: in the graph.
        datatype: Open Inference name.
        shape: batch first; -1 for a variable dimension.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ForeignModel:
    """A model made elsewhere.

    Args:
        graph: the ONNX file's bytes.
        inputs, outputs: in graph order; the first output, or the one named prediction, is what it predicts.
        classes: labels in the order of a probabilities output; empty where nobody said.
    """

    graph: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    classes: tuple[str, ...] = ()

    @property
    def prediction(self) -> Tensor:
        """The output that is what it predicts."""
        named = [tensor for tensor in self.outputs if tensor.name == "prediction"]
        return (named or list(self.outputs))[0]

    def datatypes(self, target: str) -> dict[str, str]:
        """Return the Open Inference datatype of each column that it is evaluated by.

        Args:
            target: the column that it predicts.
        """
        return {tensor.name: tensor.datatype for tensor in self.inputs} | {target: self.prediction.datatype}

    @property
    def probabilities(self) -> Tensor | None:
        """The output with a probability for each of its classes; None where there is none."""
        wanted = [
            tensor
            for tensor in self.outputs
            if self.classes and tensor.datatype in _FRACTIONS and tensor.shape[1:] == (len(self.classes),)
        ]
        return wanted[0] if wanted else None


def score_foreign(model: ForeignModel, table: pa.Table, target: str) -> Scores:
    """Score a model made elsewhere; see `judge_foreign`."""
    return judge_foreign(model, table, target).scores()


def judge_foreign(model: ForeignModel, table: pa.Table, target: str) -> Judgement:
    """Return a foreign model's predictions of a table whose columns bear its inputs' names, beside the truth.

    Fractions are read as values, everything else as class labels. Without an output of probabilities, the metrics that
    need them are left out.

    Raises:
        InvalidArgument: a column lacks or does not convert, or the model does not take one value a column.
    """
    table = normalize(table)
    if not table.num_rows:
        raise InvalidArgument("there is no row to score", reason="NO_ROWS")
    outputs = _run(model, table)
    found = outputs[model.prediction.name]
    if found.size != table.num_rows:
        raise InvalidArgument(
            f"the output {model.prediction.name!r} gives {found.size} values for {table.num_rows} rows, not one each",
            reason="SIGNATURE_MISMATCH",
        )
    values = found.reshape(-1)
    if model.prediction.datatype in _FRACTIONS:
        truth = target_values(table, Target(target, "regression", (), "FP64"))
        return Judgement(Predictions(values.astype(np.float64), None), truth, Target(target, "regression", (), "FP64"))
    labels = [label_text(_plain(value)) for value in values.tolist()]
    probabilities = model.probabilities
    return _judge_labels(model, table, target, labels, None if probabilities is None else outputs[probabilities.name])


def _judge_labels(
    model: ForeignModel, table: pa.Table, target: str, labels: Sequence[str], probabilities: Array | None
) -> Judgement:
    if target not in table.column_names:
        raise InvalidArgument(f"there is no target column {target!r}", reason="TARGET_NOT_FOUND")
    occurring = {label_text(value) for value in table.column(target).to_pylist() if value is not None}
    classes = model.classes or tuple(sorted(occurring | set(labels)))
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise InvalidArgument(
            f"the model predicts {unknown[0]!r}, which is none of its classes", reason="UNKNOWN_CLASS"
        )
    goal = Target(target, "binary" if len(classes) == 2 else "multiclass", classes, model.prediction.datatype)
    places = np.array([classes.index(label) for label in labels], dtype=np.int64)
    truth = target_values(table, goal)
    told = None if probabilities is None else probabilities.astype(np.float64)
    return Judgement(Predictions(places, told), truth, goal)


def _run(model: ForeignModel, table: pa.Table) -> dict[str, Array]:
    import onnxruntime

    columns = {tensor.name: _column(tensor, table) for tensor in model.inputs}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.graph, options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in model.outputs]
    batches = []
    for start in range(0, table.num_rows, _BATCH_ROWS):
        feed = {name: values[start : start + _BATCH_ROWS] for name, values in columns.items()}
        batches.append(session.run(names, feed))
    return {name: np.concatenate([batch[index] for batch in batches]) for index, name in enumerate(names)}


def _column(tensor: Tensor, table: pa.Table) -> Array:
    """Return a column as an input takes it: (rows,) or (rows, 1)."""
    if tensor.name not in table.column_names or tensor.shape[1:] not in ((), (1,)) or tensor.datatype not in _TYPES:
        raise InvalidArgument(
            f"the model takes {tensor.name!r} as {tensor.datatype} {list(tensor.shape)}: to be scored on a table, each "
            f"input must be one of its columns, one value a row; it has {', '.join(table.column_names[:50])}",
            reason="SIGNATURE_MISMATCH",
        )
    wire = {"BYTES": "BYTES", "BOOL": "BOOL"}.get(tensor.datatype, "FP64" if tensor.datatype in _FRACTIONS else "INT64")
    wanted = Column(tensor.name, "", wire, wire in ("FP64", "BYTES"))
    values: Array = wire_values(table.column(tensor.name), wanted).astype(_TYPES[tensor.datatype])
    return np.asarray(values.reshape(-1, *tensor.shape[1:]))


def _plain(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value
