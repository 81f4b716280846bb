"""The learned part of linear and logistic regression: a weighted sum of numbers, missing marks and categories."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from onnx import TensorProto
from safetensors.numpy import load, save

from services.training.domain.families.design import Scaling, is_common, scaled
from services.training.domain.families.encoding import Encoded, Encoding, Graph
from services.training.domain.families.frame import Array

WEIGHTS_FILE = "state.safetensors"


@dataclass(frozen=True)
class LinearCore:
    """Weights on scaled numbers, on missing marks and on categories.

    Args:
        scaling: of the numbers.
        number_weights, missing_weights: (numeric columns, outputs).
        category_weights: (known categories + 1, outputs); the last row, for unknown ones, is zero.
        intercept: (outputs,).
        is_classifier: whether the outputs are log odds: one for two classes, else one a class.
    """

    scaling: Scaling
    number_weights: Array
    missing_weights: Array
    category_weights: Array
    intercept: Array
    is_classifier: bool

    def scores(self, encoded: Encoded) -> Array:
        """Return (rows,) values, or (rows, classes) probabilities."""
        sums = self.sums(encoded)
        return probabilities(sums) if self.is_classifier else np.asarray(sums[:, 0])

    def sums(self, encoded: Encoded) -> Array:
        """Return the (rows, outputs) weighted sums."""
        values, missing = scaled(encoded.numbers, self.scaling)
        sums = values @ self.number_weights + missing @ self.missing_weights + self.intercept
        return np.asarray(sums + self.category_weights[encoded.codes].sum(axis=1))

    def add_scores(self, graph: Graph, encoding: Encoding) -> str:
        """Add the nodes that give the same."""
        sums = self.add_sums(graph, encoding)
        return add_probabilities(graph, sums, len(self.intercept)) if self.is_classifier else sums

    def add_sums(self, graph: Graph, encoding: Encoding) -> str:
        """Add the nodes that give the weighted sums."""
        parts = [graph.constant(self.intercept.reshape(1, -1))]
        if encoding.number_count:
            parts.append(self._add_numbers(graph, encoding))
        if encoding.categorical:
            codes = encoding.add_codes(graph, np.arange(encoding.unknown + 1))
            picked = graph.add("Gather", [graph.constant(self.category_weights), codes])
            parts.append(graph.add("ReduceSum", [picked, graph.constant(np.array([1]))], keepdims=0))
        sums = parts[0]
        for part in parts[1:]:
            sums = graph.add("Add", [part, sums])
        return sums

    def _add_numbers(self, graph: Graph, encoding: Encoding) -> str:
        numbers = encoding.add_numbers(graph, TensorProto.DOUBLE)
        # The deviation is folded into the weights; the mean is not, or large ones would cost digits.
        weights = graph.constant(self.number_weights / self.scaling.deviation[:, None])
        centered = graph.add("Sub", [numbers, graph.constant(self.scaling.mean.reshape(1, -1))])
        if not encoding.has_missing_numbers:
            return graph.add("MatMul", [centered, weights])
        missing = graph.add("IsNaN", [numbers])
        filled = graph.add("Where", [missing, graph.constant(np.array([[0.0]])), centered])
        marks = graph.add("Cast", [missing], to=TensorProto.DOUBLE)
        sums = graph.add("MatMul", [filled, weights])
        return graph.add("Add", [sums, graph.add("MatMul", [marks, graph.constant(self.missing_weights)])])

    def files(self) -> dict[str, bytes]:
        """Return the weights as safetensors."""
        arrays = {
            "mean": self.scaling.mean,
            "deviation": self.scaling.deviation,
            "number_weights": self.number_weights,
            "missing_weights": self.missing_weights,
            "category_weights": self.category_weights,
            "intercept": self.intercept,
            "is_classifier": np.array([self.is_classifier]),
        }
        return {WEIGHTS_FILE: save({name: np.ascontiguousarray(array) for name, array in arrays.items()})}

    @classmethod
    def load(cls, files: dict[str, bytes]) -> Self:
        """Return the core that gave the files."""
        arrays = load(files[WEIGHTS_FILE])
        return cls(
            Scaling(arrays["mean"], arrays["deviation"]),
            arrays["number_weights"],
            arrays["missing_weights"],
            arrays["category_weights"],
            arrays["intercept"],
            bool(arrays["is_classifier"][0]),
        )

    @classmethod
    def of(cls, encoding: Encoding, scaling: Scaling, weights: Array, intercept: Array, *, is_classifier: bool) -> Self:
        """Return the core of a fit.

        Args:
            encoding: of the columns.
            scaling: of the numbers.
            weights: (features of the design matrix, outputs).
            intercept: (outputs,).
            is_classifier: whether the outputs are log odds.
        """
        count = encoding.number_count
        category_weights = np.concatenate([weights[2 * count :], np.zeros((1, weights.shape[1]))])
        parts = weights[:count], weights[count : 2 * count], category_weights
        return cls(scaling, *parts, np.asarray(intercept), is_classifier)

    @property
    def weights(self) -> Array:
        """Its weights on the design matrix, (features, outputs)."""
        return np.concatenate([self.number_weights, self.missing_weights, self.category_weights[:-1]])


def common_categories(rows: Array, base: LinearCore | None) -> Array:
    """Return (known categories + 1,) which of them count: those that enough rows have, and those that a base learned.

    Args:
        rows: (known categories + 1,) how many rows have each.
        base: where a fit starts.
    """
    common = is_common(rows)
    # What a base learned of a value it says of the one row that has it, too: a fit that did not see that would make up
    # for it elsewhere.
    return common if base is None else common | base.category_weights.any(axis=1)


def probabilities(odds: Array) -> Array:
    """Return (rows, classes) probabilities of log odds: one for two classes, else one a class."""
    # Two classes are the softmax of 0 and the log odds.
    odds = np.concatenate([np.zeros_like(odds), odds], axis=1) if odds.shape[1] == 1 else odds
    shares = np.exp(odds - odds.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def add_probabilities(graph: Graph, odds: str, outputs: int) -> str:
    """Add the nodes that give the same."""
    if outputs > 1:
        return graph.add("Softmax", [odds], axis=1)
    positive = graph.add("Sigmoid", [odds])
    negative = graph.add("Sub", [graph.constant(np.array([[1.0]])), positive])
    return graph.add("Concat", [negative, positive], axis=1)
