"""Batches of rows that do not fit into memory."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, from_numpy

from services.training.domain.families.frame import Array
from services.training.domain.families.streamed.parted import Part
from services.training.domain.families.streamed.shuffled import Shuffled

# Inputs and goals, as a network and its loss take them.
MakeArrays = Callable[[Part], tuple[Array, Array]]


@dataclass(frozen=True)
class StreamedRows:
    """Rows to learn from, read again every pass.

    Args:
        shuffled: the rows, in another order every pass.
        arrays: makes inputs and goals of some.
        most: rows that these are made of at a time.
    """

    shuffled: Shuffled
    arrays: MakeArrays
    most: int

    def __len__(self) -> int:
        return len(self.shuffled)

    def in_batches(
        self, size: int, seed: int | None, passes: int = 0, lengths: Tensor | None = None, skipped: int = 0
    ) -> "StreamedBatches":
        """Return the rows in batches; the order's seed is its own. Those that are skipped are not read."""
        return StreamedBatches(self, size, passes, skipped)


@dataclass
class StreamedBatches:
    """Rows in batches, another order every pass.

    Args:
        rows: all of them.
        size: rows of a batch.
        passes: begun so far.
        skipped: batches at the beginning of the next pass that nobody looks at.
    """

    rows: StreamedRows
    size: int
    passes: int = field(default=0)
    skipped: int = field(default=0)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        number, skipped = self.passes, self.skipped
        self.passes, self.skipped = number + 1, 0
        for _ in range(skipped):
            yield torch.empty(0), torch.empty(0)
        for group in self.rows.shuffled.groups(number, self.size, self.rows.most, skipped * self.size):
            inputs, goals = (from_numpy(values) for values in self.rows.arrays(group))
            yield from zip(inputs.split(self.size), goals.split(self.size), strict=True)
