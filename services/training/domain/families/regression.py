"""Fitting a linear regression: least squares, or gradient descent on torch."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from servicekit.errors import InvalidArgument
from services.training.domain.families.design import Scaling, category_rows, design_matrix
from services.training.domain.families.encoding import Encoded, Encoding
from services.training.domain.families.frame import Array
from services.training.domain.families.linear import LinearCore, common_categories
from services.training.domain.families.model import Progress, Run, Stopped
from services.training.domain.families.target_units import squared_loss, target_unit

if TYPE_CHECKING:
    from torch import Tensor

_ADAM_STEP = 0.05
# Directions in which the columns vary less than this share of the most are taken for rounding: weights on them would be
# huge and cancel each other, and no two ways of adding them up would agree.
LEAST_SINGULAR = 1e-9


def fit_linear(encoding: Encoding, encoded: Encoded, truth: Array, run: Run, base: LinearCore | None) -> LinearCore:
    """Fit a linear regression; from a base, gradient descent goes on from its weights, on its scale."""
    scaling = base.scaling if base else Scaling.of(encoded.numbers)
    common = common_categories(category_rows(encoding, encoded), base)
    design = design_matrix(encoding, encoded, scaling, common)
    unit = target_unit(truth)
    truth = truth / unit
    # A fine-tune continues, whatever the solver: only gradient descent can start from weights.
    if base is None and run.settings["solver"] == "least_squares":
        weights, intercept = _least_squares(design, truth, run.number("l2"))
        loss = float(((design @ weights + intercept - truth) ** 2).mean())
        run.report(Progress(1.0, "least squares", 1, {"loss": squared_loss(loss, unit)}))
    else:
        start = np.zeros(design.shape[1]), float(truth.mean())
        if base is not None:
            start = base.weights[:, 0] / unit, float(base.intercept[0]) / unit
        weights, intercept = _gradient_descent(design, truth, run, start, unit)
    weights, intercept = weights.reshape(-1, 1) * unit, intercept * unit
    return LinearCore.of(encoding, scaling, weights, np.array([intercept]), is_classifier=False)


def _least_squares(design: Array, truth: Array, l2: float) -> tuple[Array, float]:
    center, offset = design.mean(axis=0), truth.mean()
    rows, values = design - center, truth - offset
    if l2 > 0:
        # A penalty is as many more rows that want a weight to be zero each.
        rows = np.concatenate([rows, np.sqrt(l2 * len(truth)) * np.eye(design.shape[1])])
        values = np.concatenate([values, np.zeros(design.shape[1])])
    # Minimum norm: the columns of a categorical one always add up to one.
    weights = np.linalg.lstsq(rows, values, rcond=LEAST_SINGULAR)[0]
    return weights, float(offset - center @ weights)


def _gradient_descent(
    design: Array, truth: Array, run: Run, start: tuple[Array, float], unit: float
) -> tuple[Array, float]:
    """Descend from a start, over mini-batches in an order of the seed."""
    import torch

    generator = torch.Generator().manual_seed(run.seed)
    rows, values = torch.from_numpy(design), torch.from_numpy(truth.copy())

    def batches(number: int) -> Iterator[tuple["Tensor", "Tensor"]]:
        size = int(run.number("batch_size")) or len(truth)
        for batch in torch.randperm(len(truth), generator=generator).split(size):
            yield rows[batch], values[batch]

    return descend(batches, len(truth), float(truth.std()) or 1.0, run, start, unit)


def descend(
    batches: Callable[[int], Iterator[tuple["Tensor", "Tensor"]]],
    count: int,
    scale: float,
    run: Run,
    start: tuple[Array, float],
    unit: float = 1.0,
) -> tuple[Array, float]:
    """Descend from a start by mini-batches, with a step that falls to zero; loss: mean squared error plus l2.

    Args:
        batches: gives those of a pass: (rows, features) and (rows,) values, in doubles.
        count: rows of a pass.
        scale: standard deviation of the values.
        run: settings, progress.
        start: weights and intercept.
        unit: of the values, in which the reported loss is not.
    """
    import torch

    torch.set_num_threads(run.threads)
    weights = torch.tensor(start[0] / scale, requires_grad=True)
    intercept = torch.tensor([start[1] / scale], dtype=torch.float64, requires_grad=True)
    optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    given, l2, epochs = run.number("learning_rate"), run.number("l2"), int(run.number("epochs"))
    optimizer = optimizers[str(run.settings["optimizer"])]([weights, intercept], lr=given or _ADAM_STEP)
    is_bounded = not given and run.settings["optimizer"] == "sgd"
    for epoch in range(1, epochs + 1):
        if run.is_cancelled():
            raise Stopped
        total = 0.0
        left = 1.0 - (epoch - 1) / epochs
        for rows, values in batches(epoch - 1):
            # Twice the mean squared length of its rows bounds the curvature of a batch's loss: a step of the inverse
            # never moves away from that batch's optimum (Bottou, Curtis, Nocedal, SIAM Review 60, 2018, section 4).
            step = 0.5 / float((rows**2).sum(dim=1).mean() + 1.0 + l2) if is_bounded else given or _ADAM_STEP
            optimizer.param_groups[0]["lr"] = step * left
            optimizer.zero_grad()
            loss = ((rows @ weights + intercept - values / scale) ** 2).mean() + l2 * (weights**2).sum()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(values)
        mean_loss = total / count * scale**2
        _check_finite(mean_loss, epoch, given)
        run.report(
            Progress(epoch / epochs, f"epoch {epoch} of {epochs}", epoch, {"loss": squared_loss(mean_loss, unit)})
        )
    return weights.detach().numpy() * scale, float(intercept.detach()[0]) * scale


def _check_finite(loss: float, epoch: int, learning_rate: float) -> None:
    if not np.isfinite(loss):
        raise InvalidArgument(
            f"the loss is no longer a number after epoch {epoch}: lower learning_rate ({learning_rate:g}), or leave it "
            "out",
            reason="LOSS_DIVERGED",
        )
