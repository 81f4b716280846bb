"""What a user should know of the task that was chosen, and of a model that learned nothing."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.training.domain.families.catalog import FAMILIES, find_family
from services.training.domain.families.frame import Array
from services.training.domain.families.metrics import Judgement
from services.training.domain.families.model import Settings
from services.training.domain.families.target import Target, label_text

# Whole numbers of so few values are codes of classes as often as they are amounts.
_MOST_CODES = 20
_LEAST_JUDGED_ROWS = 20
# Predictions within this share of the truth's range are one value and rounding, or a penalty that left nothing.
_LEAST_SHARE = 1e-6


def caution_of_task(table: pa.Table, target: Target, family: str, settings: Settings) -> list[str]:
    """Return which task was chosen for a target of few whole numbers, and how to choose the other.

    Args:
        table: the training rows, normalised or not.
        target: what is predicted.
        family: of the model.
        settings: hyperparameters, resolved.
    """
    if family not in FAMILIES or find_family(family).reads != "columns" or target.name not in table.column_names:
        return []
    # A user who set the task knows it.
    if settings.get("task", "auto") != "auto":
        return []
    values = pc.drop_null(pc.unique(table.column(target.name)))
    is_number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    if not is_number or not len(values):
        return []
    numbers = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    if not (np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()):
        return []
    if target.task == "regression":
        return _predicted_as_number(target, len(numbers), settings) if 2 <= len(numbers) <= _MOST_CODES else []
    return _predicted_as_classes(target, numbers, settings)


def caution_of_constant(judgement: Judgement, settings: Settings) -> list[str]:
    """Return that a model predicts the same for all rows, although these differ in the truth.

    Args:
        judgement: of rows that the model learned from, or of held-out ones.
        settings: hyperparameters, resolved.
    """
    truth, values = judgement.truth, judgement.values
    target = judgement.target
    if values.ndim != 1 or len(values) < 2 or not _differs(truth):
        return []
    if _differs(values) if target.classes else np.ptp(values) > _LEAST_SHARE * np.ptp(truth):
        return []
    if not target.classes:
        return [
            f"the model predicts one and the same value of {target.name!r} for all {len(values):,} rows: it learned "
            f"nothing from the columns; {_remedy(settings)}"
        ]
    label = target.classes[int(values[0])]
    probabilities = judgement.probabilities
    if probabilities is None or _differs(probabilities):
        return [
            f"the model predicts class {label!r} of {target.name!r} for all {len(values):,} rows; "
            "class_weight='balanced' makes rare classes count more, or " + _remedy(settings)
        ]
    return [
        f"the model predicts class {label!r} of {target.name!r} with one probability for all {len(values):,} rows: it "
        f"learned nothing from the columns; {_remedy(settings)}"
    ]


def tells_of_constant(rows: int) -> bool:
    """Return whether held-out rows are enough to say that a model predicts the same for all."""
    return rows >= _LEAST_JUDGED_ROWS


def _differs(values: Array) -> bool:
    return bool((values != values[:1]).any())


def _predicted_as_number(target: Target, count: int, settings: Settings) -> list[str]:
    other = "task='classification'" if "task" in settings else "logistic_regression, boosted_trees or mlp"
    how = f"for classes set {other}" if "task" in settings else f"for classes use {other}"
    return [
        f"predicting {target.name!r} as a number (regression), although it holds {count} different whole numbers: {how}"
    ]


def _predicted_as_classes(target: Target, numbers: Array, settings: Settings) -> list[str]:
    if set(numbers.tolist()) <= {0.0, 1.0}:
        # Everybody writes no and yes so.
        return []
    is_chosen = "task" not in settings
    if is_chosen and len(numbers) <= _MOST_CODES:
        # A logistic regression asks for classes.
        return []
    how = "set task='regression'" if "task" in settings else "use linear_regression, boosted_trees or mlp"
    shown = ", ".join(label_text(number) for number in sorted(numbers.tolist())[:2]) if len(numbers) == 2 else ""
    which = f"the classes {shown}" if shown else f"{len(numbers):,} classes"
    return [
        f"predicting {target.name!r} as {which} (classification), although it holds whole numbers: for a number {how}"
    ]


def _remedy(settings: Settings) -> str:
    if "min_child_samples" in settings:
        return (
            f"give more rows, or lower min_child_samples ({settings['min_child_samples']} rows of a leaf at least) or "
            "the penalties l1 and l2"
        )
    if "epochs" in settings and settings.get("solver", "gradient_descent") == "gradient_descent":
        return "raise epochs or learning_rate, or give columns that predict the target"
    return "lower the penalty (raise c, lower l2), or give columns that predict the target"
