"""How good a plan's answers are: against the dataset's labels where it has some, else against the plain plan's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Beyond rounding, relative to the largest value of an output.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Task:
    """What is compared.

    Args:
        output: the output that is judged.
        kind: labels (each row a label), scores (each row a number a class) or values.
        classes: what the scores are of; empty for their places.
    """

    output: str
    kind: str
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quality:
    """How good a plan is.

    Args:
        metric: accuracy, r2, agreement or r2_to_plain.
        plain_points, points: of the plain plan and of this one, 100 times the metric.
        agreement_points: rows of which both say the same; of values, their r2 to the plain ones.
        rows: judged on.
    """

    metric: str
    plain_points: float
    points: float
    agreement_points: float
    rows: int

    @property
    def loss_points(self) -> float:
        """What the plan loses; below 0 where it is better."""
        return self.plain_points - self.points


def find_task(
    outputs: Sequence[tuple[str, str, tuple[int, ...]]],
    task: str,
    classes: tuple[str, ...],
    truth: Sequence[str] | None,
) -> Task:
    """Return what to compare.

    Args:
        outputs: name, Open Inference datatype and shape, batch first; the one named prediction counts, else the first.
        task: of the signature; empty for a model made elsewhere.
        classes: of the signature.
        truth: the labels as texts; None without.
    """
    name, datatype, shape = next((item for item in outputs if item[0] == "prediction"), outputs[0])
    if task in ("binary", "multiclass") or datatype not in ("FP16", "FP32", "FP64"):
        return Task(name, "labels")
    width = shape[1] if len(shape) == 2 else 0
    if task in ("regression", "embedding") or width <= 1:
        return Task(name, "values")
    known = classes if len(classes) == width else tuple(str(place) for place in range(width))
    if truth is None:
        # Scores of a classifier only if somebody said so: an embedding has as many numbers a row.
        return Task(name, "scores", known) if len(classes) == width else Task(name, "values")
    return Task(name, "scores", known) if set(truth) <= set(known) else Task(name, "values")


def judge(task: Task, plain: Array, found: Array, truth: Sequence[str] | None) -> Quality:
    """Return how good a plan's answers are.

    Args:
        task: what they are.
        plain: the plain plan's, rows first.
        found: this plan's.
        truth: the labels, or the values, as texts; None without, or where they are of another kind than the answers.
    """
    rows = len(plain)
    if task.kind == "values":
        return _judge_values(plain, found, truth, rows)
    before, after = (_labels(task, answers) for answers in (plain, found))
    agreement = _share(before, after)
    if truth is None:
        return Quality("agreement", 100.0, agreement, agreement, rows)
    return Quality("accuracy", _share(before, list(truth)), _share(after, list(truth)), agreement, rows)


def same_but_rounding(plain: Sequence[Array], found: Sequence[Array]) -> bool:
    """Tell whether outputs are equal but for rounding: numbers to a thousandth of the largest, all else exactly."""
    return len(plain) == len(found) and all(_same(before, after) for before, after in zip(plain, found, strict=True))


def label_text(value: object) -> str:
    """Return a label as a text: whole floats as integers, booleans in lower case, as training writes classes."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _judge_values(plain: Array, found: Array, truth: Sequence[str] | None, rows: int) -> Quality:
    before, after = (answers.reshape(rows, -1).astype(np.float64) for answers in (plain, found))
    agreement = _r2(after, before)
    goal = _numbers(truth) if truth is not None and before.shape[1] == 1 else None
    if goal is None:
        return Quality("r2_to_plain", 100.0, agreement, agreement, rows)
    return Quality("r2", _r2(before, goal), _r2(after, goal), agreement, rows)


def _numbers(truth: Sequence[str]) -> Array | None:
    try:
        return np.array([[float(value)] for value in truth])
    except ValueError:
        return None


def _r2(values: Array, truth: Array) -> float:
    """Return R2 in points; minus infinity where a value is no number that the truth does not lack, too."""
    missing = np.isnan(truth)
    if not np.array_equal(missing, np.isnan(values)) or np.isinf(values[~missing]).any():
        return -np.inf
    errors = ((values - truth)[~missing] ** 2).sum()
    centre = np.nanmean(truth, axis=0) if not missing.all() else 0.0
    spread = ((truth - centre)[~missing] ** 2).sum()
    if spread == 0:
        return 100.0 if errors == 0 else -np.inf
    return float(100.0 * (1.0 - errors / spread))


def _labels(task: Task, answers: Array) -> list[str]:
    if task.kind == "labels":
        return [label_text(value) for value in answers.reshape(len(answers), -1)[:, 0].tolist()]
    # A row of no numbers is no class at all.
    known: Array = np.asarray(np.isfinite(answers).all(axis=1))
    places = np.argmax(np.where(known[:, None], answers, 0), axis=1)
    return [task.classes[place] if fine else "" for place, fine in zip(places.tolist(), known.tolist(), strict=True)]


def _share(found: Sequence[str], wanted: Sequence[str]) -> float:
    return 100.0 * sum(a == b for a, b in zip(found, wanted, strict=True)) / max(1, len(found))


def _same(before: Array, after: Array) -> bool:
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    if before.dtype.kind != "f":
        return bool(np.array_equal(before, after))
    wide_before, wide_after = before.astype(np.float64), after.astype(np.float64)
    finite = wide_before[np.isfinite(wide_before)]
    bound = _ROUNDING * float(np.abs(finite).max(initial=1e-6))
    return bool(np.allclose(wide_after, wide_before, rtol=_ROUNDING, atol=bound, equal_nan=True))
