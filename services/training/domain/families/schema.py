"""What a model is to take and predict."""

from dataclasses import dataclass

from services.training.domain.families.frame import Column
from services.training.domain.families.target import Target


@dataclass(frozen=True)
class Schema:
    """What a model is to take and predict.

    Args:
        columns: the inputs.
        target: what is predicted.
        handle_unknown: what an unknown category does at prediction: ignore or error.
    """

    columns: tuple[Column, ...]
    target: Target
    handle_unknown: str

    @property
    def is_single(self) -> bool:
        """Whether its input is columns of texts, or one of images."""
        return self.columns[0].kind == "text"

    @property
    def is_series(self) -> bool:
        """Whether its inputs are columns of series."""
        return self.columns[0].kind == "series"
