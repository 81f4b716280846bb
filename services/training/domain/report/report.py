"""The whole of what is to be seen of a model on some rows."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from services.training.domain.families.frame import Array, normalize
from services.training.domain.families.metrics import Judgement, Scores
from services.training.domain.families.target import Target
from services.training.domain.report.curves import Curves, curves
from services.training.domain.report.groups import shortened
from services.training.domain.report.residuals import Residuals, residuals
from services.training.domain.report.slices import MOST_ROWS, Slice, slices

# Of this form; another one would say so.
_FORMAT = 1
_MOST_CONFUSED = 20
_MOST_CLASSES = 50
_MOST_CURVES = 10
_DIGITS = 6
_OTHERS = "(others)"


@dataclass(frozen=True)
class ClassScores:
    """How well one class is told.

    Args:
        label: of it.
        rows: of it.
        precision: share of the rows predicted as it that are.
        recall: share of its rows that are predicted as it.
    """

    label: str
    rows: int
    precision: float
    recall: float


@dataclass(frozen=True)
class Report:
    """What is to be seen.

    Args:
        task, target: what is predicted.
        rows: scored.
        metrics: value by name.
        labels, confusion: of the confusion matrix: rows by truth, columns by prediction; empty for regression. The
            most frequent classes each, and the others together.
        classes: the most frequent ones, by frequency; empty for regression.
        curves: of the second of two classes, else of the most frequent ones.
        residuals: of regression.
        sliced_rows: how many rows were looked at for slices.
        slices: the worst ones first.
    """

    task: str
    target: str
    rows: int
    metrics: dict[str, float]
    labels: tuple[str, ...]
    confusion: list[list[int]]
    classes: tuple[ClassScores, ...]
    curves: tuple[Curves, ...]
    residuals: Residuals | None
    sliced_rows: int
    slices: tuple[Slice, ...]

    def to_json(self) -> bytes:
        """Return it as the contract's Report has it."""
        content = {"format": _FORMAT, **asdict(self)}
        return json.dumps(_rounded(content), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def report(
    target: Target, judgement: Judgement | None, scores: Scores, table: pa.Table, left_out: Collection[str] = ()
) -> Report:
    """Return what is to be seen of a model.

    Args:
        target: what it predicts.
        judgement: its predictions of some rows, and the truth; None where it says no such thing: metrics are all then.
        scores: on them.
        table: the rows.
        left_out: columns that are no way to slice them: images, say.
    """
    if judgement is None:
        return Report(target.task, target.name, scores.rows, scores.metrics, (), [], (), (), None, 0, ())
    if target.horizon:
        drawn = residuals(judgement.values.reshape(-1), judgement.truth.reshape(-1))
        return Report(target.task, target.name, scores.rows, scores.metrics, (), [], (), (), drawn, 0, ())
    frequent = _by_frequency(judgement)
    labels = [shortened(label) for label in target.classes]
    kept = frequent[:_MOST_CONFUSED] if len(frequent) > _MOST_CONFUSED else list(range(len(target.classes)))
    confusion = _confusion(judgement, kept)
    return Report(
        task=target.task,
        target=target.name,
        rows=scores.rows,
        metrics=scores.metrics,
        labels=(*(labels[index] for index in kept), *((_OTHERS,) if len(kept) < len(frequent) else ())),
        confusion=confusion.tolist(),
        classes=tuple(_class_scores(judgement, labels[index], index) for index in frequent[:_MOST_CLASSES]),
        curves=_curves(judgement, labels, frequent),
        residuals=None if target.classes else residuals(judgement.values, judgement.truth),
        sliced_rows=min(scores.rows, MOST_ROWS),
        slices=slices(judgement, normalize(table), left_out),
    )


def _by_frequency(judgement: Judgement) -> list[int]:
    count = len(judgement.target.classes)
    rows = np.bincount(judgement.truth, minlength=count) if count else np.zeros(0, dtype=np.int64)
    return sorted(range(count), key=lambda index: (-rows[index], index))


def _confusion(judgement: Judgement, kept: list[int]) -> Array:
    """Return counts, truth by prediction, of some classes in order and, where there are more, of the others."""
    count = len(judgement.target.classes)
    if not count:
        return np.zeros((0, 0), dtype=np.int64)
    size = len(kept) + (len(kept) < count)
    place = np.full(count, size - 1)
    place[kept] = np.arange(len(kept))
    cells = np.zeros((size, size), dtype=np.int64)
    np.add.at(cells, (place[judgement.truth], place[judgement.values]), 1)
    return cells


def _class_scores(judgement: Judgement, label: str, index: int) -> ClassScores:
    true, predicted = judgement.truth == index, judgement.values == index
    hits = int((true & predicted).sum())
    rows = int(true.sum())
    precision = hits / int(predicted.sum()) if predicted.any() else 0.0
    return ClassScores(label, rows, precision, hits / rows if rows else 0.0)


def _curves(judgement: Judgement, labels: list[str], frequent: list[int]) -> tuple[Curves, ...]:
    probabilities = judgement.probabilities
    if probabilities is None:
        return ()
    wanted = [1] if judgement.target.task == "binary" else frequent[:_MOST_CURVES]
    drawn = [curves(labels[index], judgement.truth == index, probabilities[:, index]) for index in wanted]
    return tuple(each for each in drawn if each is not None)


def _rounded(value: Any) -> Any:
    """Return what JSON can hold in few digits: numbers that are none become null."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    return value
