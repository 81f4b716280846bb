"""What a network learns from, batch by batch, in an order that can be drawn again."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

# Rows that are sorted by length together: many enough for batches of little padding, few enough to stay mixed.
_SORTED_BATCHES = 50


class BatchStream(Protocol):
    """Batches of inputs and goals, pass after pass."""

    @property
    def size(self) -> int:
        """Rows of a batch."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


class Learnable(Protocol):
    """Rows that a network can learn from, wherever they are."""

    def __len__(self) -> int: ...

    def in_batches(
        self, size: int, seed: int | None, passes: int = 0, lengths: Tensor | None = None, skipped: int = 0
    ) -> BatchStream:
        """Return the rows in batches.

        Args:
            size: rows of a batch.
            seed: of the order; None keeps the rows as they are.
            passes: done before.
            lengths: (rows,) of each; None where all are the same.
            skipped: batches at the beginning of the first pass that nobody looks at.
        """
        ...


@dataclass(frozen=True)
class Rows:
    """What a network learns from, or is judged on.

    Args:
        inputs: (rows, ...).
        goals: (rows, ...), as the loss takes them.
    """

    inputs: Tensor
    goals: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, places: Any) -> "Rows":
        return Rows(self.inputs[places], self.goals[places])

    def in_batches(
        self, size: int, seed: int | None, passes: int = 0, lengths: Tensor | None = None, skipped: int = 0
    ) -> "Batches":
        """Return the rows in batches; those that are skipped cost nothing here."""
        return Batches(self, size, seed, passes, lengths)


@dataclass
class Batches:
    """Rows in batches, another order every pass: of the seed and the pass alone, so that it can be drawn again.

    With lengths, rows of like length share a batch, so that little of it is padding.

    Args:
        rows: all of them.
        size: rows of a batch.
        seed: of the order; None keeps the rows as they are.
        passes: begun so far.
        lengths: (rows,) of each; None where all are the same.
    """

    rows: Rows
    size: int
    seed: int | None = None
    passes: int = field(default=0)
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.rows)
        order = torch.arange(count)
        if self.seed is not None:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.passes) % 2**63)
            order = torch.randperm(count, generator=generator)
        batches = order.split(self.size)
        if self.seed is not None and self.lengths is not None:
            batches = _by_length(batches, self.lengths, generator)
        self.passes += 1
        for places in batches:
            batch = self.rows[places]
            yield batch.inputs, batch.goals


def _by_length(batches: Sequence[Tensor], lengths: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Return batches of the same rows, sorted by length within some batches' rows, then in a random order."""
    sorted_batches: list[Tensor] = []
    for start in range(0, len(batches), _SORTED_BATCHES):
        places = torch.cat(tuple(batches[start : start + _SORTED_BATCHES]))
        # Stable: equal lengths stay in the order that was drawn.
        places = places[torch.argsort(lengths[places], stable=True)]
        sorted_batches += places.split(len(batches[0]))
    drawn = torch.randperm(len(sorted_batches), generator=generator)
    return [sorted_batches[place] for place in drawn.tolist()]
