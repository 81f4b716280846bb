"""Processes that train one network side by side: which rows of a batch each takes, and what they tell each other.

Their parts together are the batch, each counts by its share of it, and what they draw at random follows from the seed,
the step and the rank alone. So a step of several is the step of one, up to rounding, where nothing is drawn, the loss
is a mean over rows, and no layer looks at other rows. With dropout, or where hidden tokens are guessed, it is a step of
the same kind. A loss that compares a batch's rows with each other is another function of a part: it is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn

from servicekit.errors import InvalidArgument
from services.training.domain.families.neural.training import Loss

_MIX = 1_000_003


@dataclass(frozen=True)
class Ranks:
    """One of the processes.

    Args:
        rank: its place, from 0.
        count: how many there are; with more than one, torch.distributed is set up.
        trainer: what Lightning's Trainer is told of them.
    """

    rank: int = 0
    count: int = 1
    trainer: Mapping[str, Any] = field(default_factory=lambda: {"devices": 1})

    @property
    def is_many(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def part(self, rows: int) -> slice:
        """Return which of a batch's rows are this one's; parts differ by one row at most, and may be empty."""
        return slice(rows * self.rank // self.count, rows * (self.rank + 1) // self.count)

    def seed(self, seed: int, epoch: int, batch: int) -> None:
        """Make what is drawn at a step follow from it alone: nobody has to keep the others' random states."""
        torch.manual_seed((((seed * _MIX + epoch) * _MIX + batch) * _MIX + self.rank) % 2**63)

    def sum(self, values: Tensor) -> Callable[[], Tensor]:
        """Begin to add up all ranks' values; what is returned waits, and gives the sums."""
        sums = values.clone()
        work = distributed.all_reduce(sums, async_op=True)

        def wait() -> Tensor:
            work.wait()
            return sums

        return wait


@dataclass(frozen=True)
class RankBatches:
    """Batches, of each of them a rank's part.

    Args:
        batches: the whole ones: inputs and goals.
        ranks: whose.
        weigh: what rows of some goals count together, in the mean that the loss takes.
    """

    batches: Iterable[tuple[Tensor, Tensor]]
    ranks: Ranks
    weigh: Callable[[Tensor], float]

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, float, int]]:
        """Yield inputs, goals, what the part counts times the number of ranks, and the rows of the whole batch."""
        for inputs, goals in self.batches:
            part = self.ranks.part(len(goals))
            share = self.weigh(goals[part]) / self.weigh(goals)
            if not len(goals[part]):
                # Whoever has no row still takes part in the step: by one that counts nothing.
                part, share = slice(0, 1), 0.0
            yield inputs[part], goals[part], share * self.ranks.count, len(goals)


def check_parts(loss: Loss, ranks: Ranks) -> None:
    """Check that a loss may be taken of parts of a batch, where it is.

    Raises:
        InvalidArgument: it compares the rows of a batch with each other: of a part of one row it would be 0.
    """
    if ranks.is_many and getattr(loss, "compares_rows", False):
        raise InvalidArgument(
            "this is learned from how a batch's rows differ, and workers see a part of it: train with one worker",
            reason="ONE_WORKER_ONLY",
        )


def share_buffers(network: nn.Module) -> None:
    """Give all ranks the first one's buffers: means and variances that each took from its own rows."""
    for buffer in network.buffers():
        distributed.broadcast(buffer, src=0)


def weight_of(loss: Loss) -> Callable[[Tensor], float]:
    """Return what rows count together in a loss's mean: by their classes where these have weights, else one each."""
    weights = getattr(loss, "weight", None)
    if weights is None:
        return lambda goals: float(len(goals))
    return lambda goals: float(weights[goals].sum())
