"""How the memory that a job declares is shared out, where its table does not fit."""

from dataclasses import dataclass

# A fit in memory takes up to nine times its table's size beside it (measured): copies by type, doubles, design matrix.
HELD_SHARE = 1 / 8
# The families that learn from rows that stream.
STREAMING = ("linear_regression", "logistic_regression", "boosted_trees", "mlp")
_PART_SHARE = 1 / 16
_MOST_BLOCK_ROWS = 65_536
_LEAST_BLOCK_ROWS = 1024
_WINDOW_BLOCKS = 4


@dataclass(frozen=True)
class Budget:
    """What parts of a fit may take.

    Args:
        memory_bytes: what the job declares, beside its libraries.
    """

    memory_bytes: int

    @property
    def held_bytes(self) -> int:
        """Of a table, in Arrow: a larger one streams."""
        return int(self.memory_bytes * HELD_SHARE)

    def judged_bytes(self, family: str) -> int:
        """Of a table in Arrow whose rows all judge a model; of a larger one as many as fit do."""
        # Predicting takes half as much as a fit; how much texts and images take is not known beforehand.
        return int(self.memory_bytes * 2 * HELD_SHARE) if family in STREAMING else self.memory_bytes

    @property
    def part_bytes(self) -> int:
        """Of rows that are held for a while: those that judge, those that are shuffled, those computed with."""
        return max(int(self.memory_bytes * _PART_SHARE), 1 << 20)

    def share(self, wanted: float, rows: int, row_bytes: float) -> float:
        """Return the share of some rows that may be held, at most what is wanted."""
        return min(wanted, self.part_bytes / max(rows * row_bytes, 1.0))

    def blocks(self, row_bytes: int) -> tuple[int, int]:
        """Return how many rows a block has, and how many blocks are shuffled together.

        Args:
            row_bytes: of an encoded row.
        """
        window_rows = max(self.part_bytes // max(row_bytes, 1), _WINDOW_BLOCKS * _LEAST_BLOCK_ROWS)
        block_rows = min(window_rows // _WINDOW_BLOCKS, _MOST_BLOCK_ROWS)
        return block_rows, window_rows // block_rows
