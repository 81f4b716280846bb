"""What an engine is given to train."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from services.training.domain.families.neural.batches import Learnable, Rows

Loss = Callable[[Tensor, Tensor], Tensor]
TRAINING_PHASE = "training"


@dataclass(frozen=True)
class Training:
    """A network and all that its training needs but the run's settings; see `neural.loop.train_network`.

    Args:
        network: changed in place.
        loss: the mean over rows of what the network says, and of what it should.
        rows: to learn from.
        aside: rows that only decide when to stop, and which weights are kept.
        lengths: (rows,) of each of the rows to learn from, where they differ.
        phase: of the fit.
    """

    network: nn.Module
    loss: Loss
    rows: Learnable
    aside: Rows | None = None
    lengths: Tensor | None = None
    phase: str = TRAINING_PHASE
