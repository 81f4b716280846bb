"""Fitting a logistic regression by L-BFGS, told of every iteration."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import minimize

from services.training.domain.families.design import Scaling, design_matrix
from services.training.domain.families.encoding import Encoded, Encoding
from services.training.domain.families.frame import Array
from services.training.domain.families.linear import LinearCore
from services.training.domain.families.model import Progress, Run, Stopped

_GRADIENT_TOLERANCE = 1e-6


def fit_logistic(
    encoding: Encoding, encoded: Encoded, truth: Array, classes: int, run: Run, base: LinearCore | None
) -> LinearCore:
    """Fit a logistic regression; from a base, on its scale and starting from its weights.

    The loss is scikit-learn's: the mean over rows plus the squared weights over 2 c rows, the intercept free.
    """
    scaling = base.scaling if base else Scaling.of(encoded.numbers)
    design = design_matrix(encoding, encoded, scaling)
    outputs = 1 if classes == 2 else classes
    shape = (design.shape[1] + 1, outputs)
    start = np.vstack([base.weights, base.intercept]) if base else np.zeros(shape)
    is_balanced = run.settings["class_weight"] == "balanced"
    row_weights = balanced_weights(truth, classes) if is_balanced else np.ones(len(truth))
    strength = 1.0 / (run.number("c") * row_weights.sum())
    loss = regularized_loss(np.column_stack([design, np.ones(len(design))]), truth, row_weights, strength, shape)
    most = int(run.number("max_iterations"))
    done = 0

    def follow(intermediate_result: object) -> None:
        nonlocal done
        if run.is_cancelled():
            raise Stopped
        done += 1
        value = float(intermediate_result.fun)  # type: ignore[attr-defined]
        run.report(Progress(min(1.0, done / most), f"iteration {done}, at most {most}", done, {"loss": value}))

    options = {"maxiter": most, "gtol": _GRADIENT_TOLERANCE, "ftol": 64 * np.finfo(float).eps, "maxfun": 50 * most}
    found = minimize(loss, start.reshape(-1), jac=True, method="L-BFGS-B", callback=follow, options=options)
    weights = found.x.reshape(shape)
    has_settled = done < most
    ending = "" if has_settled else ": not settled yet, raise max_iterations"
    metrics = {"loss": float(found.fun), "iterations": float(done)}
    run.report(Progress(1.0, f"{done} iterations{ending}", done, metrics))
    return LinearCore.of(encoding, scaling, weights[:-1], weights[-1], is_classifier=True)


def balanced_weights(truth: Array, classes: int) -> Array:
    """Return a weight a row, so that each class counts as much as another; their mean is 1."""
    counts = np.bincount(truth, minlength=classes)
    return np.asarray((len(truth) / (classes * np.maximum(counts, 1)))[truth])


def regularized_loss(
    design: Any, truth: Array, row_weights: Array, strength: float, shape: tuple[int, int]
) -> Callable[[Array], tuple[float, Array]]:
    """Return the function that gives the loss and its gradient at flat weights, intercept last.

    Args:
        design: (rows, columns) values, sparse or not, the last of ones.
        truth: (rows,) class indexes.
        row_weights: (rows,).
        strength: of the penalty on squared weights.
        shape: of the weights: (columns, outputs), one output for two classes.
    """
    shares = row_weights / row_weights.sum()
    hot = truth.reshape(-1, 1).astype(float) if shape[1] == 1 else np.eye(shape[1])[truth]

    def loss(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(shape)
        sums = design @ weights
        # log(sum(exp)); with two classes, of 0 and the log odds.
        total = np.logaddexp(0.0, sums) if shape[1] == 1 else np.logaddexp.reduce(sums, axis=1, keepdims=True)
        penalized = weights.copy()
        penalized[-1] = 0.0
        value = shares @ (total[:, 0] - (hot * sums).sum(axis=1)) + 0.5 * strength * (penalized**2).sum()
        gradient = design.T @ (shares[:, None] * (np.exp(sums - total) - hot)) + strength * penalized
        return float(value), gradient.reshape(-1)

    return loss
