"""What a fit keeps from time to time, so that it can go on where it was cut. Imports no library that trains."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Checkpoint:
    """All that a fit needs to go on as if it had never stopped.

    Args:
        content: tensors as safetensors, all else as JSON in their header; see `neural.snapshot`.
    """

    content: bytes


class Checkpoints(Protocol):
    """Where a fit keeps its checkpoints: the latest counts."""

    @property
    def found(self) -> Checkpoint | None:
        """The one to go on from; None to begin."""
        ...

    def is_due(self) -> bool:
        """Return whether it is time for the next."""
        ...

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep one in place of those before; does not wait until it is safe."""
        ...


class NoCheckpoints:
    """Keeps nothing."""

    found: Checkpoint | None = None

    def is_due(self) -> bool:
        """Return False."""
        return False

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keep nothing."""
