"""The multi-layer perceptron: a linear model of the columns into hidden units, then layer upon layer."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from safetensors.numpy import load, save

from services.training.domain.families.design import Scaling, category_rows, design_matrix
from services.training.domain.families.encoding import Encoded, Encoding, Graph
from services.training.domain.families.frame import Array
from services.training.domain.families.linear import (
    WEIGHTS_FILE,
    LinearCore,
    add_probabilities,
    common_categories,
    probabilities,
)
from services.training.domain.families.model import Run
from services.training.domain.families.neural.rows import set_aside, weights_of
from services.training.domain.families.target import Target
from services.training.domain.families.target_units import mean_and_spread

if TYPE_CHECKING:
    from torch import nn

LAYERS_FILE = "layers.safetensors"
_SCORED_ROWS = 4096


@dataclass(frozen=True)
class MlpCore:
    """Layers of weighted sums, each but the last cut off below zero (ReLU).

    Args:
        first: the columns into the hidden units.
        layers: the others, (inputs, outputs) weights and (outputs,) biases each.
        is_classifier: whether the outputs are log odds: one for two classes, else one a class.
    """

    first: LinearCore
    layers: tuple[tuple[Array, Array], ...]
    is_classifier: bool

    def scores(self, encoded: Encoded) -> Array:
        """Return (rows,) values, or (rows, classes) probabilities."""
        count = len(encoded.numbers)
        # Part by part: hidden units of all rows at once are many times the rows.
        starts = range(0, max(count, 1), _SCORED_ROWS)
        return np.concatenate([self._scores(encoded[start : start + _SCORED_ROWS]) for start in starts])

    def _scores(self, encoded: Encoded) -> Array:
        sums = self.first.sums(encoded)
        for weights, biases in self.layers:
            sums = np.maximum(sums, 0.0) @ weights + biases
        return probabilities(sums) if self.is_classifier else np.asarray(sums[:, 0])

    def add_scores(self, graph: Graph, encoding: Encoding) -> str:
        """Add the nodes that give the same."""
        sums = self.first.add_sums(graph, encoding)
        for weights, biases in self.layers:
            product = graph.add("MatMul", [graph.add("Relu", [sums]), graph.constant(weights)])
            sums = graph.add("Add", [product, graph.constant(biases.reshape(1, -1))])
        return add_probabilities(graph, sums, len(self.layers[-1][1])) if self.is_classifier else sums

    def files(self) -> dict[str, bytes]:
        """Return the layers as safetensors."""
        arrays = {"is_classifier": np.array([self.is_classifier])}
        for place, (weights, biases) in enumerate(self.layers):
            arrays |= {
                f"weights_{place}": np.ascontiguousarray(weights),
                f"biases_{place}": np.ascontiguousarray(biases),
            }
        return {WEIGHTS_FILE: self.first.files()[WEIGHTS_FILE], LAYERS_FILE: save(arrays)}

    @classmethod
    def load(cls, files: dict[str, bytes]) -> Self:
        """Return the core that gave the files."""
        arrays = load(files[LAYERS_FILE])
        count = len(arrays) // 2
        layers = tuple((arrays[f"weights_{place}"], arrays[f"biases_{place}"]) for place in range(count))
        return cls(LinearCore.load(files), layers, bool(arrays["is_classifier"][0]))


def fit_mlp(
    encoding: Encoding, encoded: Encoded, truth: Array, target: Target, run: Run, base: MlpCore | None
) -> MlpCore:
    """Fit a perceptron; from a base, on its scale and starting from its layers."""
    # Here, for a job of another family needs none of it: two seconds and 200 MB.
    from torch import from_numpy

    from services.training.domain.families.neural.batches import Rows
    from services.training.domain.families.neural.loop import train_network

    scaling = base.first.scaling if base else Scaling.of(encoded.numbers)
    common = common_categories(category_rows(encoding, encoded), base.first if base else None)
    design = design_matrix(encoding, encoded, scaling, common)
    scale = (0.0, 1.0) if target.classes else mean_and_spread(truth)
    rows = Rows(from_numpy(design.astype(np.float32)), from_numpy(goals_of(truth, target, scale)))
    network = starting_network(design.shape[1], target, scale, run, base)
    aside = set_aside(truth, len(target.classes), run)
    kept = from_numpy(np.flatnonzero(~aside))
    watched = rows[from_numpy(np.flatnonzero(aside))] if aside.any() else None
    loss = loss_of(
        target, np.bincount(truth[~aside], minlength=len(target.classes)) if target.classes else np.zeros(0), run
    )
    train_network(network, loss, rows[kept], run, watched)
    # What a base learned of values that these rows do not have, it keeps.
    seen = None if base else np.asarray(design.any(axis=0))
    return core_of(network, encoding, scaling, seen, scale, is_classifier=bool(target.classes))


def goals_of(truth: Array, target: Target, scale: tuple[float, float]) -> Array:
    """Return what the network is to say of rows: (rows,) class indexes, else (rows, 1) on the scale of one value."""
    if len(target.classes) > 2:
        return truth
    offset, spread = scale
    return np.asarray(((truth - offset) / spread).astype(np.float32).reshape(-1, 1))


def starting_network(
    inputs: int, target: Target, scale: tuple[float, float], run: Run, base: MlpCore | None
) -> "nn.Sequential":
    """Return the layers that training begins with: random ones, or a base's."""
    outputs = 1 if len(target.classes) <= 2 else len(target.classes)
    return _network(inputs, outputs, run) if base is None else _continued(base, *scale, run)


def _network(inputs: int, outputs: int, run: Run) -> "nn.Sequential":
    """Return the layers with torch's own random weights, of the run's seed."""
    import torch

    units = int(run.number("hidden_units"))
    sizes = [inputs, *[units] * int(run.number("hidden_layers")), outputs]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed % 2**63)
        layers = [torch.nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
    return _stacked(layers, run)


def _continued(base: MlpCore, offset: float, spread: float, run: Run) -> "nn.Sequential":
    """Return a model's layers, its answers on the scale of the new rows."""
    import torch

    *middle, (weights, biases) = base.layers
    if not base.is_classifier:
        weights, biases = weights / spread, (biases - offset) / spread
    parts = [(base.first.weights, base.first.intercept), *middle, (weights, biases)]
    layers = []
    for values, shift in parts:
        layer = torch.nn.Linear(*values.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(values.T))
            layer.bias.copy_(torch.from_numpy(shift))
        layers.append(layer)
    if run.settings["trainable"] == "last":
        for layer in layers[:-1]:
            layer.requires_grad_(False)
    return _stacked(layers, run)


def _stacked(layers: "Sequence[nn.Linear]", run: Run) -> "nn.Sequential":
    import torch

    parts: list[nn.Module] = [layers[0]]
    for layer in layers[1:]:
        parts += [torch.nn.ReLU(), torch.nn.Dropout(run.number("dropout")), layer]
    return torch.nn.Sequential(*parts)


def loss_of(target: Target, class_rows: Array, run: Run) -> Any:
    """Return the mean loss over rows, by how many rows each class has."""
    import torch
    from torch import nn

    if not target.classes:
        return nn.functional.mse_loss
    weights = weights_of(class_rows, run)
    if len(weights) > 2:
        return nn.CrossEntropyLoss(weight=torch.tensor(weights, dtype=torch.float32))
    # Of the mean: so that the step size means the same.
    ratio, scale = float(weights[1] / weights[0]), float(weights[0])
    binary = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([ratio]))
    return lambda odds, goals: scale * binary(odds, goals)


def core_of(
    network: "nn.Sequential",
    encoding: Encoding,
    scaling: Scaling,
    seen: Array | None,
    scale: tuple[float, float],
    *,
    is_classifier: bool,
) -> MlpCore:
    """Return what a trained network has learned.

    Args:
        network: the layers.
        encoding: of its columns.
        scaling: of its numbers.
        seen: (features,) which are not 0 in every row; None where what no row has was learned before.
        scale: offset and spread of the values that it was trained on.
        is_classifier: whether it says log odds.
    """
    from torch import nn

    layers = [
        (part.weight.detach().double().numpy().T.copy(), part.bias.detach().double().numpy().copy())
        for part in network
        if isinstance(part, nn.Linear)
    ]
    weights, intercept = layers[0]
    if seen is not None:
        # What no row has was never learned: it would count by its random start.
        weights[~seen] = 0.0
    first = LinearCore.of(encoding, scaling, weights, intercept, is_classifier=False)
    if not is_classifier:
        offset, spread = scale
        layers[-1] = layers[-1][0] * spread, layers[-1][1] * spread + offset
    return MlpCore(first, tuple(layers[1:]), is_classifier)
