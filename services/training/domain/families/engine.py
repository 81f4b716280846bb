"""Where networks are trained: in the job's process, or by several side by side. Imports no library that trains."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from services.training.domain.families.model import Run
    from services.training.domain.families.neural.training import Training


class Engine(Protocol):
    """Runs the loop of all networks."""

    def train(self, training: "Training", run: "Run") -> None:
        """Train a network in place; see `neural.loop.train_network`.

        Raises:
            InvalidArgument: the loss is no longer a number.
            Stopped: it was cancelled.
        """
        ...


class EmbeddedEngine:
    """Trains in this very process."""

    def train(self, training: "Training", run: "Run") -> None:
        """Train a network in place."""
        # Here, for a job of another family needs none of it: two seconds and 200 MB.
        from services.training.domain.families.neural.loop import train_here

        train_here(training, run)
