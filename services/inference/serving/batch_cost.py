"""What batches cost, by measured runs: the best size, and what a run takes beyond its rows."""

from collections.abc import Mapping

# A larger batch makes each of its requests wait longer: for less than this gain it is not worth it.
_ENOUGH = 0.97


def best_batch(seconds: Mapping[int, float]) -> int:
    """Return the rows of a run beyond which throughput grows no more.

    Args:
        seconds: of a run, by rows; not empty.
    """
    best = max(rows / taken for rows, taken in seconds.items())
    return min(rows for rows, taken in seconds.items() if rows / taken >= _ENOUGH * best)


def fit_cost(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Return what a run takes whatever its rows, and what each row adds, seconds; neither is below 0.

    Least squares of the relative error, so that small batches count as much as large ones.

    Args:
        seconds: of a run, by rows.
    """
    if not seconds:
        return 0.0, 0.0
    if len(seconds) == 1:
        [(rows, taken)] = seconds.items()
        return 0.0, taken / rows
    weights = {rows: 1.0 / taken**2 for rows, taken in seconds.items()}
    total = sum(weights.values())
    mean_rows = sum(weights[rows] * rows for rows in seconds) / total
    mean_taken = sum(weights[rows] * taken for rows, taken in seconds.items()) / total
    spread = sum(weights[rows] * (rows - mean_rows) ** 2 for rows in seconds)
    covariance = sum(weights[rows] * (rows - mean_rows) * (taken - mean_taken) for rows, taken in seconds.items())
    per_row = max(0.0, covariance / spread)
    fixed = mean_taken - per_row * mean_rows
    if fixed < 0:
        # Through the origin.
        moment = sum(weights[rows] * rows * rows for rows in seconds)
        return 0.0, sum(weights[rows] * rows * taken for rows, taken in seconds.items()) / moment
    return fixed, per_row
