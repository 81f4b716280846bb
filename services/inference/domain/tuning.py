"""What is wished of execution plans: how far a worker may go in search of a faster one."""

from dataclasses import dataclass
from enum import Enum


class TuningMode(Enum):
    """How far a worker may go."""

    OFF = "off"
    LOSSLESS = "lossless"
    WITHIN_LOSS = "within_loss"


@dataclass(frozen=True)
class Tuning:
    """What a deployment wishes.

    Args:
        mode: how far; None for the worker's own setting.
        max_quality_loss_points: the most that a plan may lose, 100 times the metric; None for the worker's setting.
        dataset: judged on this dataset version, name@number; empty for the version's own evaluation data.
    """

    mode: TuningMode | None = None
    max_quality_loss_points: float | None = None
    dataset: str = ""


@dataclass(frozen=True)
class Wish:
    """What a worker goes by: a deployment's wish, with the worker's settings where it has none."""

    mode: TuningMode
    max_quality_loss_points: float
    dataset: str


def resolve(tuning: Tuning, default: Wish) -> Wish:
    """Return what to go by."""
    loss = tuning.max_quality_loss_points
    return Wish(
        tuning.mode or default.mode,
        default.max_quality_loss_points if loss is None else loss,
        tuning.dataset or default.dataset,
    )
