"""Fitting a logistic regression by L-BFGS, told of every iteration."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.optimize import minimize

from services.training.domain.families.design import Scaling, category_rows, design_matrix
from services.training.domain.families.encoding import Encoded, Encoding
from services.training.domain.families.frame import Array
from services.training.domain.families.linear import LinearCore, common_categories
from services.training.domain.families.model import Progress, Run, Stopped

_GRADIENT_TOLERANCE = 1e-6
Parts = Callable[[], Iterator[tuple[Any, Array]]]


def fit_logistic(
    encoding: Encoding, encoded: Encoded, truth: Array, classes: int, run: Run, base: LinearCore | None
) -> LinearCore:
    """Fit a logistic regression; from a base, on its scale and starting from its weights.

    The loss is scikit-learn's: the mean over rows plus the squared weights over 2 c rows, the intercept free.
    """
    scaling = base.scaling if base else Scaling.of(encoded.numbers)
    common = common_categories(category_rows(encoding, encoded), base)
    design = design_matrix(encoding, encoded, scaling, common)
    rows = np.column_stack([design, np.ones(len(design))])
    counts = np.bincount(truth, minlength=classes)
    weights = descend(lambda: iter([(rows, truth)]), design.shape[1], counts, run, base)
    return LinearCore.of(encoding, scaling, weights[:-1], weights[-1], is_classifier=True)


def descend(parts: Parts, features: int, class_rows: Array, run: Run, base: LinearCore | None) -> Array:
    """Return the (features + 1, outputs) weights of least loss, intercept last.

    Args:
        parts: reads all rows afresh: (rows, features + 1) with a last column of ones, and (rows,) class indexes.
        features: of the design matrix.
        class_rows: (classes,) rows of each.
        run: settings, progress.
        base: where to start.
    """
    shape = (features + 1, 1 if len(class_rows) == 2 else len(class_rows))
    start = np.vstack([base.weights, base.intercept]) if base else np.zeros(shape)
    is_balanced = run.settings["class_weight"] == "balanced"
    class_weights = balance(class_rows) if is_balanced else np.ones(len(class_rows))
    total = float(class_weights @ class_rows)
    strength = 1.0 / (run.number("c") * total)
    loss = regularized_loss(parts, class_weights / total, strength, shape)
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
    has_settled = done < most
    ending = "" if has_settled else ": not settled yet, raise max_iterations"
    metrics = {"loss": float(found.fun), "iterations": float(done)}
    run.report(Progress(1.0, f"{done} iterations{ending}", done, metrics))
    return np.asarray(found.x.reshape(shape))


def balanced_weights(truth: Array, classes: int) -> Array:
    """Return a weight a row, so that each class counts as much as another; their mean is 1."""
    return np.asarray(balance(np.bincount(truth, minlength=classes))[truth])


def balance(class_rows: Array) -> Array:
    """Return a weight a class, so that each counts as much as another, by how many rows each has."""
    return np.asarray(class_rows.sum() / (len(class_rows) * np.maximum(class_rows, 1)))


def regularized_loss(
    parts: Parts, class_shares: Array, strength: float, shape: tuple[int, int]
) -> Callable[[Array], tuple[float, Array]]:
    """Return the function that gives the loss and its gradient at flat weights, intercept last.

    Args:
        parts: reads all rows afresh: (rows, columns) values, sparse or not, the last of ones; (rows,) class indexes.
        class_shares: (classes,) of the whole that a row of each class counts.
        strength: of the penalty on squared weights.
        shape: of the weights: (columns, outputs), one output for two classes.
    """

    def loss(flat: Array) -> tuple[float, Array]:
        weights = flat.reshape(shape)
        penalized = weights.copy()
        penalized[-1] = 0.0
        value, gradient = 0.5 * strength * float((penalized**2).sum()), strength * penalized
        for design, truth in parts():
            more, slope = _part_loss(design, truth, class_shares[truth], weights)
            value, gradient = value + more, gradient + slope
        return value, gradient.reshape(-1)

    return loss


def _part_loss(design: Any, truth: Array, shares: Array, weights: Array) -> tuple[float, Array]:
    """Return what some rows add to the loss and to its gradient, by each row's share of the whole."""
    is_binary = weights.shape[1] == 1
    hot = truth.reshape(-1, 1).astype(float) if is_binary else np.eye(weights.shape[1])[truth]
    sums = design @ weights
    # log(sum(exp)); with two classes, of 0 and the log odds.
    total = np.logaddexp(0.0, sums) if is_binary else np.logaddexp.reduce(sums, axis=1, keepdims=True)
    value = float(shares @ (total[:, 0] - (hot * sums).sum(axis=1)))
    return value, design.T @ (shares[:, None] * (np.exp(sums - total) - hot))
