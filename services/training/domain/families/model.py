"""What training gives: a model that predicts, exports itself, and can be stored and loaded again."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol, Self

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper

from services.training.domain.families.checkpoints import Checkpoints, NoCheckpoints
from services.training.domain.families.encoding import Encoded, Encoding, Graph, wire_values
from services.training.domain.families.engine import EmbeddedEngine, Engine
from services.training.domain.families.frame import Array, Column, columns_of, normalize
from services.training.domain.families.output_names import OUTPUT_NAMES
from services.training.domain.families.target import Target

STATE_FILE = "family.json"
ONNX_FILE = "model.onnx"
WIRE_TYPES = {
    "BYTES": TensorProto.STRING,
    "INT64": TensorProto.INT64,
    "BOOL": TensorProto.BOOL,
    "FP64": TensorProto.DOUBLE,
    "FP32": TensorProto.FLOAT,
}


@dataclass(frozen=True)
class Progress:
    """How far a fit is.

    Args:
        share: 0 to 1.
        message: for people.
        step: epoch or boosting round.
        metrics: of this step, by name.
    """

    share: float
    message: str
    step: int
    metrics: dict[str, float]


Report = Callable[[Progress], None]
IsCancelled = Callable[[], bool]
Settings = Mapping[str, int | float | str | bool]


class Stopped(Exception):
    """The fit was asked to stop."""


@dataclass(frozen=True)
class Run:
    """How to fit.

    Args:
        settings: hyperparameters, resolved.
        seed: of every random draw.
        report: told how far it is.
        is_cancelled: asked between steps.
        threads: to compute with. More than there are free cores make LightGBM wait a hundred times longer.
        checkpoints: what a long fit keeps, and goes on from.
        engine: where networks are trained.
        warn: told what the user should know of the model, and stays with it.
    """

    settings: Settings
    seed: int
    report: Report
    is_cancelled: IsCancelled
    threads: int = 1
    checkpoints: Checkpoints = field(default_factory=NoCheckpoints)
    engine: Engine = field(default_factory=EmbeddedEngine)
    warn: Callable[[str], None] = lambda _: None

    def number(self, name: str) -> float:
        """Return a numeric setting."""
        return float(self.settings[name])


@dataclass(frozen=True)
class Predictions:
    """What a model says of some rows.

    Args:
        values: (rows,) numbers, or class indexes; of forecasts (rows, horizon); of embeddings (rows, size).
        probabilities: (rows, classes) for classification; None otherwise.
        interval: of forecasts, the lower and upper ends, (rows, horizon) each.
        seasonal_error: of forecasts, the mean of how far the rows' own steps lie from those a season before; None
            where that is unknown, or no more than rounding.
    """

    values: Array
    probabilities: Array | None
    interval: tuple[Array, Array] | None = None
    seasonal_error: float | None = None


@dataclass(frozen=True)
class Input:
    """A tensor that an export takes.

    Args:
        name: of it.
        datatype: Open Inference name on the wire.
        shape: rows first; -1 for a free dimension.
        column: that its values stand in, raw; None where something is made of them first.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    column: Column | None = None


class Model(Protocol):
    """What training gives, whatever its rows hold."""

    @property
    def family(self) -> str:
        """Its family."""
        ...

    @property
    def hyperparameters(self) -> dict[str, int | float | str | bool]:
        """As resolved."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the table that it reads."""
        ...

    @property
    def target(self) -> Target:
        """What it predicts."""
        ...

    @property
    def handle_unknown(self) -> str:
        """What an unknown category does at prediction: ignore or error."""
        ...

    def inputs(self) -> tuple[Input, ...]:
        """Return what the export takes."""
        ...

    def predict(self, table: pa.Table) -> Predictions:
        """Return predictions for a table's rows.

        Raises:
            InvalidArgument: a column lacks or does not convert, or holds what the model refuses.
        """
        ...

    def feeds(self, table: pa.Table) -> Iterator[tuple[Array, dict[str, Array]]]:
        """Yield places of a table's rows, and these rows as the export takes them."""
        ...

    def export(self) -> bytes:
        """Return the ONNX model; out: `prediction` with `probabilities` or `lower` and `upper`, or `embedding`."""
        ...

    def files(self) -> dict[str, bytes]:
        """Return the trainable state, and what stands beside the export."""
        ...


class Core(Protocol):
    """The learned part of a family."""

    def scores(self, encoded: Encoded) -> Array:
        """Return (rows,) values, or (rows, classes) probabilities."""
        ...

    def add_scores(self, graph: Graph, encoding: Encoding) -> str:
        """Add the nodes that give the same, (rows, 1) or (rows, classes) doubles. Return their name."""
        ...

    def files(self) -> dict[str, bytes]:
        """Return the learned state: safetensors, JSON or text."""
        ...

    @classmethod
    def load(cls, files: dict[str, bytes]) -> Self:
        """Return the core that gave the files."""
        ...


@dataclass(frozen=True)
class TrainedModel:
    """A model that was trained here.

    Args:
        family: its family.
        hyperparameters: as resolved.
        columns: the inputs.
        target: what it predicts.
        handle_unknown: what an unknown category does at prediction: ignore or error.
        core: the learned part.
    """

    family: str
    hyperparameters: dict[str, int | float | str | bool]
    columns: tuple[Column, ...]
    target: Target
    handle_unknown: str
    core: Core

    def inputs(self) -> tuple[Input, ...]:
        """Return what the export takes: a column each, raw."""
        return tuple(Input(column.name, column.datatype, (-1, 1), column) for column in self.columns)

    def feeds(self, table: pa.Table) -> Iterator[tuple[Array, dict[str, Array]]]:
        """Yield all rows' places, and the rows as the export takes them: one (rows, 1) array a column."""
        found = columns_of(normalize(table))
        yield (
            np.arange(table.num_rows),
            {column.name: wire_values(found[column.name], column).reshape(-1, 1) for column in self.columns},
        )

    def predict(self, table: pa.Table) -> Predictions:
        """Return predictions for a table's rows.

        Raises:
            InvalidArgument: a column lacks or does not convert, or holds what the model refuses.
        """
        encoding = Encoding(self.columns)
        encoded = encoding.encode(normalize(table), refuse_unknown=self.handle_unknown == "error")
        scores = self.core.scores(encoded)
        if self.target.task == "regression":
            return Predictions(scores, None)
        return Predictions(scores.argmax(axis=1), scores)

    def export(self) -> bytes:
        """Return the ONNX model: raw columns in; `prediction`, and for classes `probabilities`, out."""
        encoding = Encoding(self.columns)
        graph = Graph([*OUTPUT_NAMES, *(column.name for column in self.columns)])
        scores = self.core.add_scores(graph, encoding)
        kind = WIRE_TYPES[self.target.datatype]
        outputs = [helper.make_tensor_value_info("prediction", kind, [None, 1])]
        if self.target.task == "regression":
            graph.add("Identity", [scores], output="prediction")
        else:
            best = graph.add("ArgMax", [scores], axis=1, keepdims=1)
            graph.add("Gather", [graph.constant(label_values(self.target)), best], output="prediction")
            graph.add("Cast", [scores], output="probabilities", to=TensorProto.FLOAT)
            shape = [None, len(self.target.classes)]
            outputs.append(helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape))
        return graph.build(encoding.graph_inputs(), outputs)

    def files(self) -> dict[str, bytes]:
        """Return the trainable state, from which `load` makes the model again."""
        return {STATE_FILE: Description.of(self).to_json(), **self.core.files()}


def label_values(target: Target) -> Array:
    """Return the labels of a target's classes, as they are on the wire."""
    if target.datatype == "BOOL":
        return np.array([label == "true" for label in target.classes])
    if target.datatype == "INT64":
        return np.array([int(label) for label in target.classes], dtype=np.int64)
    return np.array(target.classes, dtype=object)


@dataclass(frozen=True)
class Description:
    """What every stored model says of itself.

    Args:
        family, hyperparameters, columns, target, handle_unknown: as in Model.
    """

    family: str
    hyperparameters: dict[str, int | float | str | bool]
    columns: tuple[Column, ...]
    target: Target
    handle_unknown: str

    @classmethod
    def of(cls, model: Model) -> Self:
        """Return a model's."""
        return cls(model.family, model.hyperparameters, model.columns, model.target, model.handle_unknown)

    @classmethod
    def read(cls, files: Mapping[str, bytes]) -> Self:
        """Return the one in a model's files."""
        found = json.loads(files[STATE_FILE])
        columns = tuple(Column(**{**column, "categories": tuple(column["categories"])}) for column in found["columns"])
        target = Target(**{**found["target"], "classes": tuple(found["target"]["classes"])})
        return cls(found["family"], found["hyperparameters"], columns, target, found["handle_unknown"])

    def to_json(self) -> bytes:
        """Return it as the file holds it."""
        return json.dumps(asdict(self), sort_keys=True).encode()


def load_model(files: dict[str, bytes], cores: dict[str, type[Core]]) -> TrainedModel:
    """Return the model that gave some files."""
    description = Description.read(files)
    return TrainedModel(
        description.family,
        description.hyperparameters,
        description.columns,
        description.target,
        description.handle_unknown,
        cores[description.family].load(files),
    )
