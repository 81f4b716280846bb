"""Linear and logistic regression over rows that stream."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from servicekit.errors import InvalidArgument
from services.training.domain.families import logistic, regression
from services.training.domain.families.frame import Array
from services.training.domain.families.linear import LinearCore
from services.training.domain.families.model import Progress, Run, Stopped
from services.training.domain.families.streamed.budget import Budget
from services.training.domain.families.streamed.parted import Designs, Measured, Parted
from services.training.domain.families.streamed.shuffled import Shuffled

if TYPE_CHECKING:
    from torch import Tensor


def fit_linear(
    parted: Parted, measured: Measured, shuffled: Shuffled, run: Run, budget: Budget, base: LinearCore | None
) -> LinearCore:
    """Fit a linear regression; from a base, gradient descent goes on from its weights, on its scale."""
    scaling = base.scaling if base else measured.numbers.scaling()
    designs = Designs(parted.encoding, scaling, measured.common(base))
    if base is None and run.settings["solver"] == "least_squares":
        weights, intercept = _least_squares(designs, parted, run, budget)
    else:
        start = np.zeros(designs.features), float(measured.truth.mean[0])
        if base is not None:
            start = base.weights[:, 0], float(base.intercept[0])
        weights, intercept = _gradient_descent(designs, measured, shuffled, run, budget, start)
    return LinearCore.of(parted.encoding, scaling, weights.reshape(-1, 1), np.array([intercept]), is_classifier=False)


def fit_logistic(parted: Parted, measured: Measured, run: Run, budget: Budget, base: LinearCore | None) -> LinearCore:
    """Fit a logistic regression by as many passes as its loss is asked for; from a base, starting from its weights."""
    scaling = base.scaling if base else measured.numbers.scaling()
    designs = Designs(parted.encoding, scaling, measured.common(base))
    passed = designs.passed(parted.parts, budget.part_bytes)

    def parts() -> Iterator[tuple[Array, Array]]:
        for design, part in passed():
            if run.is_cancelled():
                raise Stopped
            yield np.column_stack([design, np.ones(len(design))]), part.truth

    weights = logistic.descend(parts, designs.features, measured.class_rows, run, base)
    return LinearCore.of(parted.encoding, scaling, weights[:-1], weights[-1], is_classifier=True)


def _least_squares(designs: Designs, parted: Parted, run: Run, budget: Budget) -> tuple[Array, float]:
    """Return weights and intercept, by one pass.

    What is kept of all rows is the triangle R of a QR decomposition of [1, design, truth], to which more rows are added
    by decomposing again: it has the singular values of all rows, which sums of squares would square (Golub, Van Loan,
    Matrix Computations, 4th ed., section 6.5). Below its first row, which is that of the ones, lies the triangle of the
    centered rows.
    """
    triangle = np.zeros((0, designs.features + 2))
    rows = 0
    for design, part in designs.passed(parted.parts, budget.part_bytes)():
        if run.is_cancelled():
            raise Stopped
        block = np.column_stack([np.ones(len(design)), design, part.truth])
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
        rows += len(block)
    center, offset = triangle[0, 1:-1] / triangle[0, 0], triangle[0, -1] / triangle[0, 0]
    centered, values = triangle[1:, 1:-1], triangle[1:, -1]
    l2 = run.number("l2")
    penalty = np.sqrt(l2 * rows) * np.eye(designs.features) if l2 > 0 else np.zeros((0, designs.features))
    weights = np.linalg.lstsq(
        np.concatenate([centered, penalty]),
        np.concatenate([values, np.zeros(len(penalty))]),
        rcond=regression.LEAST_SINGULAR,
    )[0]
    loss = float(((centered @ weights - values) ** 2).sum() / rows)
    run.report(Progress(1.0, "least squares", 1, {"loss": loss}))
    return weights, float(offset - center @ weights)


def _gradient_descent(
    designs: Designs, measured: Measured, shuffled: Shuffled, run: Run, budget: Budget, start: tuple[Array, float]
) -> tuple[Array, float]:
    from torch import from_numpy

    size = int(run.number("batch_size"))
    if not size:
        raise InvalidArgument(
            "the table is larger than the memory declared, so batches must be smaller than it: set batch_size, or "
            "declare more memory",
            reason="TABLE_TOO_LARGE",
        )
    most = budget.part_bytes // (8 * max(designs.features, 1))

    def batches(number: int) -> Iterator[tuple["Tensor", "Tensor"]]:
        for group in shuffled.groups(number, size, most):
            if run.is_cancelled():
                raise Stopped
            rows, values = from_numpy(designs.of(group)), from_numpy(group.truth)
            yield from zip(rows.split(size), values.split(size), strict=True)

    return regression.descend(batches, len(shuffled), float(measured.truth.spread[0]) or 1.0, run, start)
