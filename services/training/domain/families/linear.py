"""Linear regression and logistic regression: a weighted sum of numbers, missing marks and categories."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from onnx import TensorProto
from safetensors.numpy import load, save

from servicekit.errors import InvalidArgument
from services.training.domain.families.encoding import Encoded, Encoding, Graph
from services.training.domain.families.frame import Array
from services.training.domain.families.model import IsCancelled, Progress, Report, Stopped

WEIGHTS_FILE = "state.safetensors"


@dataclass(frozen=True)
class Scaling:
    """How numbers are brought to one scale.

    Args:
        mean, deviation: (numeric columns,) of the training rows; the mean also stands for missing values.
    """

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, numbers: Array) -> Self:
        """Measure the training rows."""
        if not numbers.shape[1]:
            return cls(np.empty(0), np.empty(0))
        deviation = np.nanstd(numbers, axis=0)
        return cls(np.nanmean(numbers, axis=0), np.where(deviation > 0, deviation, 1.0))


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
        missing = np.isnan(encoded.numbers)
        scaled = np.where(missing, 0.0, (encoded.numbers - self.scaling.mean) / self.scaling.deviation)
        sums = scaled @ self.number_weights + missing @ self.missing_weights + self.intercept
        sums = sums + self.category_weights[encoded.codes].sum(axis=1)
        if not self.is_classifier:
            return np.asarray(sums[:, 0])
        if sums.shape[1] == 1:
            positive = 1.0 / (1.0 + np.exp(-sums))
            return np.concatenate([1.0 - positive, positive], axis=1)
        shifted = np.exp(sums - sums.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    def add_scores(self, graph: Graph, encoding: Encoding) -> str:
        """Add the nodes that give the same."""
        parts = [graph.constant(self.intercept.reshape(1, -1))]
        if encoding.numeric:
            parts.append(self._add_numbers(graph, encoding))
        if encoding.categorical:
            places = {
                "values_int64s": list(range(len(encoding.keys))),
                "default_int64": encoding.unknown,
            }
            codes = encoding.add_codes(graph, places)
            picked = graph.add("Gather", [graph.constant(self.category_weights), codes])
            parts.append(graph.add("ReduceSum", [picked, graph.constant(np.array([1]))], keepdims=0))
        sums = parts[0]
        for part in parts[1:]:
            sums = graph.add("Add", [part, sums])
        return sums if not self.is_classifier else self._add_probabilities(graph, sums)

    def _add_numbers(self, graph: Graph, encoding: Encoding) -> str:
        numbers = encoding.add_numbers(graph, TensorProto.DOUBLE)
        # (x - mean) / deviation is folded into weights and an offset: two nodes less for every request.
        weights = self.number_weights / self.scaling.deviation[:, None]
        offset = graph.constant(-(self.scaling.mean @ weights).reshape(1, -1))
        nullable = np.array([column.nullable for column in encoding.numeric])
        if not nullable.any():
            return graph.add("Add", [graph.add("MatMul", [numbers, graph.constant(weights)]), offset])
        missing = graph.add("IsNaN", [numbers])
        filled = graph.add("Where", [missing, graph.constant(self.scaling.mean.reshape(1, -1)), numbers])
        marks = graph.add("Cast", [missing], to=TensorProto.DOUBLE)
        sums = graph.add("Add", [graph.add("MatMul", [filled, graph.constant(weights)]), offset])
        return graph.add("Add", [sums, graph.add("MatMul", [marks, graph.constant(self.missing_weights)])])

    def _add_probabilities(self, graph: Graph, sums: str) -> str:
        if self.intercept.shape[0] == 1:
            positive = graph.add("Sigmoid", [sums])
            negative = graph.add("Sub", [graph.constant(np.array([[1.0]])), positive])
            probabilities = graph.add("Concat", [negative, positive], axis=1)
        else:
            probabilities = graph.add("Softmax", [sums], axis=1)
        return graph.add("Cast", [probabilities], to=TensorProto.FLOAT)

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


def fit_linear(
    encoding: Encoding,
    encoded: Encoded,
    truth: Array,
    settings: Mapping[str, int | float | str | bool],
    seed: int,
    report: Report,
    is_cancelled: IsCancelled,
    base: LinearCore | None,
) -> LinearCore:
    """Fit a linear regression; from a base, gradient descent goes on from its weights, on its scale."""
    scaling = base.scaling if base else Scaling.of(encoded.numbers)
    design = _design(encoding, encoded, scaling)
    # A fine-tune that says nothing continues: only gradient descent can start from weights.
    if base is None and settings["solver"] == "least_squares":
        weights, intercept = _least_squares(design, truth, float(settings["l2"]))
        report(Progress(1.0, "least squares", 1, {"loss": _loss(design, truth, weights, intercept)}))
    else:
        start = _flat_weights(base) if base else (np.zeros(design.shape[1]), float(truth.mean()))
        weights, intercept = _gradient_descent(design, truth, settings, seed, report, is_cancelled, start)
    return _core(encoding, scaling, weights.reshape(-1, 1), np.array([intercept]), is_classifier=False)


def fit_logistic(
    encoding: Encoding,
    encoded: Encoded,
    truth: Array,
    settings: Mapping[str, int | float | str | bool],
    seed: int,
    report: Report,
    is_cancelled: IsCancelled,
    base: LinearCore | None,
) -> LinearCore:
    """Fit a logistic regression by L-BFGS; from a base, on its scale and starting from its weights."""
    from sklearn.linear_model import LogisticRegression

    if is_cancelled():
        raise Stopped
    scaling = base.scaling if base else Scaling.of(encoded.numbers)
    design = _design(encoding, encoded, scaling)
    model = LogisticRegression(
        C=float(settings["c"]),
        class_weight="balanced" if settings["class_weight"] == "balanced" else None,
        max_iter=int(settings["max_iterations"]),
        tol=1e-6,
        warm_start=base is not None,
        random_state=seed,
    )
    if base is not None:
        flat = np.concatenate([base.number_weights, base.missing_weights, base.category_weights[:-1]])
        model.coef_, model.intercept_ = flat.T.copy(), base.intercept.copy()
        model.classes_ = np.unique(truth)
    model.fit(design, truth)
    report(Progress(1.0, "L-BFGS", int(model.n_iter_[0]), {"iterations": float(model.n_iter_[0])}))
    return _core(encoding, scaling, model.coef_.T, model.intercept_, is_classifier=True)


def _design(encoding: Encoding, encoded: Encoded, scaling: Scaling) -> Array:
    """Return (rows, features): scaled numbers, missing marks, one column a known category."""
    missing = np.isnan(encoded.numbers)
    scaled = np.where(missing, 0.0, (encoded.numbers - scaling.mean) / scaling.deviation)
    hot = np.zeros((len(encoded.codes), encoding.unknown + 1))
    rows = np.arange(len(encoded.codes))
    for place in range(encoded.codes.shape[1]):
        hot[rows, encoded.codes[:, place]] = 1.0
    return np.concatenate([scaled, missing.astype(float), hot[:, :-1]], axis=1)


def _least_squares(design: Array, truth: Array, l2: float) -> tuple[Array, float]:
    center = design.mean(axis=0)
    centered, offset = design - center, truth.mean()
    if l2 > 0:
        rows = np.sqrt(l2 * len(truth)) * np.eye(design.shape[1])
        centered, values = np.concatenate([centered, rows]), np.concatenate([truth - offset, np.zeros(len(rows))])
    else:
        values = truth - offset
    # Minimum norm: the columns of a categorical one always add up to one.
    weights = np.linalg.lstsq(centered, values, rcond=None)[0]
    return weights, float(offset - center @ weights)


def _gradient_descent(
    design: Array,
    truth: Array,
    settings: Mapping[str, int | float | str | bool],
    seed: int,
    report: Report,
    is_cancelled: IsCancelled,
    start: tuple[Array, float],
) -> tuple[Array, float]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    scale = float(truth.std()) or 1.0
    rows, values = torch.from_numpy(design), torch.from_numpy(truth / scale)
    weights = torch.tensor(start[0] / scale, requires_grad=True)
    intercept = torch.tensor([start[1] / scale], dtype=torch.float64, requires_grad=True)
    optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    optimizer = optimizers[str(settings["optimizer"])]([weights, intercept], lr=float(settings["learning_rate"]))
    epochs, l2 = int(settings["epochs"]), float(settings["l2"])
    size = int(settings["batch_size"]) or len(truth)
    for epoch in range(1, epochs + 1):
        if is_cancelled():
            raise Stopped
        total = 0.0
        for batch in torch.randperm(len(truth), generator=generator).split(size):
            optimizer.zero_grad()
            loss = ((rows[batch] @ weights + intercept - values[batch]) ** 2).mean() + l2 * (weights**2).sum()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        mean_loss = total / len(truth) * scale**2
        if not np.isfinite(mean_loss):
            raise InvalidArgument(
                f"the loss is not a number after epoch {epoch}: lower learning_rate ({settings['learning_rate']})",
                reason="LOSS_DIVERGED",
            )
        report(Progress(epoch / epochs, f"epoch {epoch} of {epochs}", epoch, {"loss": mean_loss}))
    return weights.detach().numpy() * scale, float(intercept.detach()[0]) * scale


def _loss(design: Array, truth: Array, weights: Array, intercept: float) -> float:
    return float(((design @ weights + intercept - truth) ** 2).mean())


def _flat_weights(core: LinearCore) -> tuple[Array, float]:
    flat = np.concatenate([core.number_weights, core.missing_weights, core.category_weights[:-1]])
    return flat[:, 0], float(core.intercept[0])


def _core(encoding: Encoding, scaling: Scaling, weights: Array, intercept: Array, *, is_classifier: bool) -> LinearCore:
    count = len(encoding.numeric)
    category_weights = np.concatenate([weights[2 * count :], np.zeros((1, weights.shape[1]))])
    return LinearCore(
        scaling, weights[:count], weights[count : 2 * count], category_weights, np.asarray(intercept), is_classifier
    )
