"""The rows to learn from in another order every pass, of the seed and the pass alone, without holding them all."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from services.training.domain.families.frame import Array
from services.training.domain.families.streamed.parted import Part, Parted


@dataclass(frozen=True)
class Shuffled:
    """Rows in a random order.

    Blocks of the source are read in an order that is drawn, some of them make a window, and the rows of a window are
    shuffled: what is far apart in the source comes together, whatever it is sorted by.

    Args:
        parted: the source.
        block_rows: rows of the source that are read together.
        block_counts: (blocks,) rows of each that are learned from.
        window_blocks: blocks whose rows are held at once.
        seed: of the order.
    """

    parted: Parted
    block_rows: int
    block_counts: Array
    window_blocks: int
    seed: int

    def __len__(self) -> int:
        return int(self.block_counts.sum())

    def groups(self, number: int, size: int, most: int, skipped: int = 0) -> Iterator[Part]:
        """Yield the rows of a pass in groups.

        Args:
            number: of the pass, from 0.
            size: rows of a batch: groups are whole batches, but for the last.
            most: rows of a group, about.
            skipped: rows at the beginning that are not wanted; whole batches.
        """
        group = max(most // size, 1) * size
        left: list[Part] = []
        for window in self._windows(number, skipped):
            # What is left over from the window before begins the next batch.
            rows = Part.join([*left, window]) if left else window
            whole = len(rows) // size * size
            for start in range(0, whole, group):
                yield rows[start : min(start + group, whole)]
            left = [rows[np.arange(whole, len(rows))]] if whole < len(rows) else []
        yield from left

    def _windows(self, number: int, skipped: int) -> Iterator[Part]:
        blocks = np.random.default_rng((self.seed % 2**63, number)).permutation(len(self.block_counts))
        for place in range(0, len(blocks), self.window_blocks):
            window = blocks[place : place + self.window_blocks]
            count = int(self.block_counts[window].sum())
            if count and skipped < count:
                order = np.random.default_rng((self.seed % 2**63, number, place)).permutation(count)[skipped:]
                yield self._read(window)[order]
            skipped = max(skipped - count, 0)

    def _read(self, blocks: Array) -> Part:
        parts = [
            part
            for block in blocks.tolist()
            if self.block_counts[block]
            for part in self.parted.parts(first_row=block * self.block_rows, most_rows=self.block_rows)
        ]
        return Part.join(parts)
