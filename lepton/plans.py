"""Execution plans: how a deployment's versions are run on each kind of hardware, and what was measured to choose so."""

from typing import Any

import pandas as pd

from lepton.arguments import build, one_of
from lepton.v1 import common_pb2, inference_pb2

__all__ = ["candidates_frame", "plans_frame", "to_batching", "to_tuning"]

_MODES = {
    None: inference_pb2.TUNING_MODE_UNSPECIFIED,
    "off": inference_pb2.TUNING_MODE_OFF,
    "lossless": inference_pb2.TUNING_MODE_LOSSLESS,
    "within_loss": inference_pb2.TUNING_MODE_WITHIN_LOSS,
}
_BATCHINGS = {"auto": common_pb2.BATCHING_AUTO, "off": common_pb2.BATCHING_OFF}
_PLAN_COLUMNS = [
    "digest",
    "hardware",
    "plan",
    "precision",
    "threads",
    "batch_rows",
    "rows_per_second",
    "plain_rows_per_second",
    "metric",
    "points",
    "loss_points",
    "message",
]
_CANDIDATE_COLUMNS = ["plan", "speedup", "loss_points", "outcome"]


def to_tuning(
    mode: str | None = None, max_quality_loss_points: float | None = None, dataset: str | None = None
) -> inference_pb2.Tuning:
    """Return what is wished of execution plans.

    Args:
        mode: off, lossless, within_loss, or None for the platform's own setting.
        max_quality_loss_points: the most that a plan may lose, 100 times the metric; None for the platform's setting.
        dataset: a dataset version to judge on, name@number; None for the version's own evaluation data.

    Raises:
        InvalidArgument: the mode is unknown.
    """
    if mode is not None:
        one_of(mode, [name for name in _MODES if name], "tuning mode")
    return build(
        inference_pb2.Tuning, mode=_MODES[mode], max_quality_loss_points=max_quality_loss_points, dataset=dataset or ""
    )


def to_batching(mode: str | None) -> "common_pb2.Batching.ValueType":
    """Return whether rows of several requests may be run together.

    Args:
        mode: auto or off; None leaves it to the platform.

    Raises:
        InvalidArgument: the mode is unknown.
    """
    if mode is None:
        return common_pb2.BATCHING_UNSPECIFIED
    one_of(mode, list(_BATCHINGS), "batching")
    return _BATCHINGS[mode]


def plans_frame(deployment: inference_pb2.Deployment) -> pd.DataFrame:
    """Return one row a plan, newest first; speeds at its best batch, NaN where nothing was measured."""
    return pd.DataFrame([_plan_row(plan) for plan in deployment.plans], columns=_PLAN_COLUMNS)


def candidates_frame(plan: inference_pb2.Plan) -> pd.DataFrame:
    """Return one row a candidate that was tried, or could have been; NaN for what was not measured."""
    rows = [
        (
            item.name,
            item.speedup or float("nan"),
            item.loss_points if item.HasField("loss_points") else float("nan"),
            item.outcome,
        )
        for item in plan.candidates
    ]
    return pd.DataFrame(rows, columns=_CANDIDATE_COLUMNS)


def _plan_row(plan: inference_pb2.Plan) -> tuple[Any, ...]:
    nan = float("nan")
    best = next((speed for speed in plan.speeds if speed.rows == plan.batch_rows), None)
    has_quality = plan.HasField("quality")
    return (
        plan.digest[:12],
        plan.hardware,
        plan.name,
        plan.precision,
        plan.threads,
        plan.batch_rows,
        best.rows_per_second if best else nan,
        best.plain_rows_per_second if best else nan,
        plan.quality.metric,
        plan.quality.points if has_quality else nan,
        plan.quality.loss_points if has_quality else nan,
        plan.message,
    )
