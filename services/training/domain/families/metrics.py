"""The standard metrics of each task."""

from dataclasses import dataclass, field

import numpy as np

from services.training.domain.families.frame import Array
from services.training.domain.families.model import Predictions
from services.training.domain.families.target import Target

# As scikit-learn has it.
_SMALLEST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Scores:
    """How well a model did.

    Args:
        rows: scored.
        metrics: value by name.
        labels: of the confusion matrix; empty for regression.
        confusion: row-major counts, truth by prediction.
        draws: by name, what a metric was on each of several draws of rows, where its value is their mean.
    """

    rows: int
    metrics: dict[str, float]
    labels: tuple[str, ...] = ()
    confusion: tuple[int, ...] = ()
    draws: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """Predictions of some rows beside the truth.

    Args:
        predictions: of a model; without probabilities for classes where it tells none.
        truth: (rows,) numbers, or class indexes.
        target: what is predicted.
    """

    predictions: Predictions
    truth: Array
    target: Target

    @property
    def values(self) -> Array:
        """(rows,) numbers, or class indexes, as predicted."""
        return self.predictions.values

    @property
    def probabilities(self) -> Array | None:
        """(rows, classes), where the model tells them."""
        return self.predictions.probabilities

    def scores(self) -> Scores:
        """Return the metrics of the task."""
        return score(self.predictions, self.truth, self.target)

    def of(self, rows: Array) -> "Judgement":
        """Return that of some of the rows, by their places."""
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        return Judgement(Predictions(self.values[rows], probabilities), self.truth[rows], self.target)


def row_losses(judgement: Judgement) -> Array:
    """Return (rows,) how wrong each row is: absolute error; log loss; without probabilities 1 for a wrong class."""
    if judgement.target.task == "regression":
        return np.asarray(np.abs(judgement.values - judgement.truth))
    if judgement.probabilities is None:
        return np.asarray(judgement.values != judgement.truth, dtype=np.float64)
    return _log_losses(judgement.probabilities, judgement.truth)


def score(predictions: Predictions, truth: Array, target: Target) -> Scores:
    """Return the metrics of a task: R2, RMSE, MAE; or accuracy, F1, ROC AUC, log loss and the confusion matrix.

    Of forecasts RMSE, MAE, MASE, and of their intervals the coverage and the mean width.

    F1 is that of the second class where there are two, else the mean over classes that occur or are predicted; ROC AUC
    is one against the rest, the mean over classes. What needs probabilities is left out where there are none. A metric
    that is not defined on these rows is left out: see `undefined_metrics`.
    """
    if target.task == "regression":
        return Scores(len(truth), _regression(predictions.values, truth))
    if target.task == "forecasting":
        return Scores(len(truth), _forecasting(predictions, truth))
    count = len(target.classes)
    confusion = np.zeros((count, count), dtype=np.int64)
    np.add.at(confusion, (truth, predictions.values), 1)
    metrics = {"accuracy": float(np.trace(confusion) / max(1, len(truth)))}
    if (f1 := _f1(confusion)) is not None:
        metrics["f1"] = f1
    if predictions.probabilities is not None:
        metrics |= _of_probabilities(predictions.probabilities, truth)
    return Scores(len(truth), metrics, target.classes, tuple(int(cell) for cell in confusion.reshape(-1)))


def undefined_metrics(scores: Scores, target: Target) -> list[str]:
    """Return why metrics of a task were left out, a sentence each.

    Args:
        scores: as `score` gave them.
        target: what is predicted.
    """
    reasons = []
    if target.task == "regression" and "r2" not in scores.metrics:
        reasons.append(
            f"r2 is not defined on these {scores.rows:,} rows and is left out: {target.name!r} has one value in all of "
            "them, and r2 compares with their mean; see rmse and mae"
        )
    if target.classes and "f1" not in scores.metrics:
        reasons.append(
            f"f1 is not defined on these {scores.rows:,} rows and is left out: class {target.classes[1]!r} neither "
            "occurs nor is predicted"
        )
    if target.classes and "log_loss" in scores.metrics and "roc_auc" not in scores.metrics:
        reasons.append(
            f"roc_auc is not defined on these {scores.rows:,} rows and is left out: {target.name!r} has one class in "
            "all of them"
        )
    return reasons


def roc_auc(positive: Array, scores: Array) -> float | None:
    """Return the chance that a positive row scores above a negative one, ties as half; None where one kind lacks.

    Source: Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 143, 1982.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2.0)[inverse]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def _regression(values: Array, truth: Array) -> dict[str, float]:
    if not len(truth):
        return {}
    scale, errors = _scaled_errors(values, truth)
    metrics = {
        "rmse": scale * float(np.sqrt((errors**2).mean())),
        "mae": scale * float(np.abs(errors).mean()),
    }
    spread = float(((truth / scale - (truth / scale).mean()) ** 2).sum())
    # R2 compares with the mean of the truth: of a constant truth, or of one row, it is not defined.
    if spread > 0 and (truth != truth[0]).any():
        metrics = {"r2": 1.0 - float((errors**2).sum()) / spread, **metrics}
    return metrics


def _scaled_errors(values: Array, truth: Array) -> tuple[float, Array]:
    """Return a scale, and the errors divided by it: the squares of numbers near 1e300 overflow, those of 1e-300 vanish.

    The scale is a power of two, so that no digit is lost.
    """
    largest = float(max(np.abs(truth).max(initial=0.0), np.abs(values).max(initial=0.0)))
    scale = float(np.ldexp(1.0, np.clip(np.frexp(largest)[1], -1000, 1000))) if largest > 0 else 1.0
    return scale, values / scale - truth / scale


def _forecasting(predictions: Predictions, truth: Array) -> dict[str, float]:
    """Return the metrics of forecasts, over all rows and steps.

    MASE is the mean absolute error in units of that of the seasonal naive forecast on the rows' own past: below 1 is
    better than repeating the last season.

    Source: Hyndman and Koehler, Another look at measures of forecast accuracy, IJF 22, 2006.
    """
    assert predictions.interval is not None
    scale, errors = _scaled_errors(predictions.values, truth)
    lower, upper = predictions.interval
    metrics = {
        "mae": scale * float(np.abs(errors).mean()),
        "rmse": scale * float(np.sqrt((errors**2).mean())),
        "coverage": float(((lower <= truth) & (truth <= upper)).mean()),
        "mean_interval_width": float((upper - lower).mean()),
    }
    if predictions.seasonal_error:
        metrics["mase"] = metrics["mae"] / predictions.seasonal_error
    return metrics


def _f1(confusion: Array) -> float | None:
    correct = np.diag(confusion).astype(float)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    by_class = np.divide(2 * correct, both, out=np.zeros_like(correct), where=both > 0)
    if len(by_class) == 2:
        # Of a class that neither occurs nor is predicted precision and recall are both 0 / 0.
        return float(by_class[1]) if both[1] else None
    # A class that neither occurs nor is predicted was not got wrong.
    return float(by_class[both > 0].mean())


def _of_probabilities(probabilities: Array, truth: Array) -> dict[str, float]:
    count = probabilities.shape[1]
    areas = [
        area
        for index in ([1] if count == 2 else range(count))
        if (area := roc_auc(truth == index, probabilities[:, index])) is not None
    ]
    loss = {"log_loss": float(_log_losses(probabilities, truth).mean())}
    return loss | ({"roc_auc": float(np.mean(areas))} if areas else {})


def _log_losses(probabilities: Array, truth: Array) -> Array:
    chosen = np.clip(probabilities[np.arange(len(truth)), truth], _SMALLEST, 1.0)
    return np.asarray(-np.log(chosen))
