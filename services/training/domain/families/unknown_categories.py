"""Which share of a table's values a model reads as unknown categories."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from services.training.domain.families.frame import Column, normalize, texts

# Of held-out rows fewer are no news: a column of more values than the model keeps always has some.
LEAST_TOLD_SHARE = 0.1


@dataclass(frozen=True)
class UnknownCategories:
    """How many values of a column are none of the model's categories.

    Args:
        column: its name.
        unknown_rows: rows with such a value.
        rows: of the table.
    """

    column: str
    unknown_rows: int
    rows: int

    def to_text(self) -> str:
        """Return it for people, without any value."""
        share = self.unknown_rows / max(self.rows, 1)
        return (
            f"{share:.0%} of {self.column!r} are unknown categories ({self.unknown_rows:,} of {self.rows:,} rows): the "
            "model did not learn these values, so it predicts without them; check how the column is spelled"
        )


def unknown_categories(columns: Iterable[Column], table: pa.Table) -> list[UnknownCategories]:
    """Return the columns of a table in which some value is unknown.

    Args:
        columns: that the model reads; only those with categories have unknown ones.
        table: with all of them, as the model reads them.
    """
    wanted = [column for column in columns if column.kind == "categorical"]
    table = normalize(table.select([column.name for column in wanted]))
    found = []
    for column in wanted:
        known = pa.array((*column.categories, ""), pa.string())
        count = table.num_rows - pc.sum(pc.is_in(texts(table.column(column.name)), value_set=known)).as_py()
        if count:
            found.append(UnknownCategories(column.name, count, table.num_rows))
    return found
