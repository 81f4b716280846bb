"""Rows that need not fit into memory: read afresh, batch by batch, as often as it takes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from services.training.domain.families.frame import normalize

# What is made of rows takes several times their size: so much of them at a time.
_PIECE_BYTES = 2 << 20


class RowSource(Protocol):
    """A table, row by row. Blocks: use a thread."""

    @property
    def num_rows(self) -> int:
        """Rows of the whole."""
        ...

    def batches(self, first_row: int = 0, most_rows: int = 0) -> Iterator[pa.RecordBatch]:
        """Read from a row on, in order; 0 most rows for all that follow.

        Raises:
            Unavailable: where they come from is away, and was for long.
        """
        ...


@dataclass(frozen=True)
class TableRows:
    """Rows that are in memory already.

    Args:
        table: all of them.
        batch_rows: most of a batch.
    """

    table: pa.Table
    batch_rows: int = 16_384

    @property
    def num_rows(self) -> int:
        """Rows of the whole."""
        return int(self.table.num_rows)

    def batches(self, first_row: int = 0, most_rows: int = 0) -> Iterator[pa.RecordBatch]:
        """Read from a row on, in order; 0 most rows for all that follow."""
        part = self.table.slice(first_row, most_rows or None)
        yield from part.to_batches(max_chunksize=self.batch_rows)


def pieces(source: RowSource, first_row: int = 0, most_rows: int = 0) -> Iterator[tuple[int, pa.Table]]:
    """Yield rows as small normalised tables, each with the place of its first row in the source."""
    place = first_row
    for batch in source.batches(first_row, most_rows):
        rows = max(1, batch.num_rows * _PIECE_BYTES // max(batch.nbytes, _PIECE_BYTES))
        for start in range(0, batch.num_rows, rows):
            yield place + start, normalize(pa.Table.from_batches([batch.slice(start, rows)]))
        place += batch.num_rows
