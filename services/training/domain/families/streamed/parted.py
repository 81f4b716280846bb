"""A source's rows as numbers, by what they are for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from services.training.domain.families.design import Scaling, design_matrix
from services.training.domain.families.encoding import Encoded, Encoding
from services.training.domain.families.frame import Array
from services.training.domain.families.linear import LinearCore, common_categories
from services.training.domain.families.schema import Schema
from services.training.domain.families.streamed.draws import TRAIN, Division
from services.training.domain.families.streamed.measures import Moments
from services.training.domain.families.streamed.rows import RowSource, pieces
from services.training.domain.families.target import target_values


@dataclass(frozen=True)
class Part:
    """Some rows as numbers.

    Args:
        places: (rows,) in the source.
        encoded: their inputs.
        truth: (rows,) class indexes, or values.
    """

    places: Array
    encoded: Encoded
    truth: Array

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, places: Array | slice) -> "Part":
        return Part(self.places[places], self.encoded[places], self.truth[places])

    @classmethod
    def join(cls, parts: "list[Part]") -> "Part":
        """Return several as one, in order."""
        return cls(
            np.concatenate([part.places for part in parts]),
            Encoded(
                np.concatenate([part.encoded.numbers for part in parts]),
                np.concatenate([part.encoded.codes for part in parts]),
            ),
            np.concatenate([part.truth for part in parts]),
        )


@dataclass(frozen=True)
class Parted:
    """A source whose rows are divided between training and judging.

    Args:
        source: the rows.
        schema: what of them is learned from.
        division: which row is for what.
    """

    source: RowSource
    schema: Schema
    division: Division

    @cached_property
    def encoding(self) -> Encoding:
        """Of the schema's columns."""
        return Encoding(self.schema.columns)

    @property
    def encoded_bytes(self) -> int:
        """Of a row: its inputs, its place and its truth."""
        return 8 * (self.encoding.number_count + len(self.encoding.categorical) + 2)

    def parts(self, role: int = TRAIN, first_row: int = 0, most_rows: int = 0) -> Iterator[Part]:
        """Yield the rows of a role among some rows of the source.

        Raises:
            InvalidArgument: a row does not fit the schema.
        """
        for first, table in pieces(self.source, first_row, most_rows):
            places, truth, roles = self._roles(first, table)
            chosen = np.flatnonzero(roles == role)
            if len(chosen):
                yield Part(places[chosen], self._encode(table.take(pa.array(chosen))), truth[chosen])

    def measure(self, block_rows: int, gathered: dict[int, list[pa.Table]]) -> "Measured":
        """Read all rows: measure those to train on, and gather the tables of other roles.

        Args:
            block_rows: how many rows of the source are counted together.
            gathered: by role, for each that is wanted; filled.
        """
        measured = Measured(self, block_rows)
        for first, table in pieces(self.source):
            places, truth, roles = self._roles(first, table)
            for role, found in gathered.items():
                if (roles == role).any():
                    found.append(table.filter(pa.array(roles == role)))
            chosen = roles == TRAIN
            measured.update(Part(places[chosen], self._encode(table.filter(pa.array(chosen))), truth[chosen]))
        return measured

    def _roles(self, first: int, table: pa.Table) -> tuple[Array, Array, Array]:
        places = np.arange(first, first + table.num_rows)
        truth = target_values(table, self.schema.target)
        return places, truth, self.division.roles(places, truth)

    def _encode(self, table: pa.Table) -> Encoded:
        return self.encoding.encode(table, refuse_unknown=self.schema.handle_unknown == "error")


class Measured:
    """What a fit must know of the rows that it learns from.

    Args:
        parted: the source.
        block_rows: how many rows of the source are counted together.
    """

    def __init__(self, parted: Parted, block_rows: int) -> None:
        encoding, target = parted.encoding, parted.schema.target
        self.block_rows = block_rows
        # (blocks,) rows to learn from in each block of the source.
        self.block_counts = np.zeros(-(-parted.source.num_rows // block_rows), dtype=np.int64)
        self.numbers = Moments(encoding.number_count)
        self.truth = Moments(1)
        self.class_rows = np.zeros(len(target.classes), dtype=np.int64)
        self._category_rows = np.zeros(encoding.unknown + 1, dtype=np.int64)

    def update(self, part: Part) -> None:
        """Add rows."""
        self.numbers.update(part.encoded.numbers)
        self.truth.update(part.truth.reshape(-1, 1).astype(float))
        if len(self.class_rows):
            self.class_rows += np.bincount(part.truth, minlength=len(self.class_rows))
        self._category_rows += np.bincount(part.encoded.codes.reshape(-1), minlength=len(self._category_rows))
        np.add.at(self.block_counts, part.places // self.block_rows, 1)

    @property
    def rows(self) -> int:
        """To learn from."""
        return int(self.block_counts.sum())

    def common(self, base: LinearCore | None = None) -> Array:
        """Return (known categories + 1,) which categories enough rows have, or a base learned."""
        return common_categories(self._category_rows, base)

    def seen(self, scaling: Scaling) -> Array:
        """Return (features,) which features of the design matrix are not 0 in every row, without a base."""
        moved = (self.numbers.low != scaling.mean) | (self.numbers.high != scaling.mean)
        moved &= self.numbers.count > 0
        return np.concatenate([moved, self.numbers.count < self.numbers.rows, self.common()[:-1]])


@dataclass(frozen=True)
class Designs:
    """Parts of a source as a linear model sees them.

    Args:
        encoding: of the columns.
        scaling: of the numbers.
        common: (known categories + 1,) which of them count.
    """

    encoding: Encoding
    scaling: Scaling
    common: Array

    @property
    def features(self) -> int:
        """Columns of the design matrix."""
        return 2 * self.encoding.number_count + self.encoding.unknown

    def of(self, part: Part) -> Array:
        """Return (rows, features)."""
        return design_matrix(self.encoding, part.encoded, self.scaling, self.common)

    def passed(
        self, parts: Callable[[], Iterator[Part]], most_bytes: int
    ) -> Callable[[], Iterator[tuple[Array, Part]]]:
        """Return what reads parts afresh, each cut so that its design matrix takes no more than some bytes."""
        rows = max(1, most_bytes // (8 * max(self.features, 1)))

        def designs() -> Iterator[tuple[Array, Part]]:
            for part in parts():
                for start in range(0, len(part), rows):
                    piece = part[start : start + rows]
                    yield self.of(piece), piece

        return designs
