"""The step that reads a column of texts as times."""

from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from servicekit.errors import InvalidArgument
from services.data.domain.casts import BadValue
from services.data.domain.original_texts import companion, texts_of
from services.data.domain.parsing.columns import first_misfit
from services.data.domain.parsing.times import ORDERS, as_times, by_format

Rows = Callable[[], Iterator[pa.RecordBatch]]
Parse = Callable[[pa.Array], pa.Array]


class ParseDates:
    """Reads texts as timestamp[us], with the zone UTC where `zone` or the format's %z says one.

    Which order of day and month all of them fit is found from all rows. Offsets in other texts are converted to UTC.

    Args:
        schema: of the rows before it.
        name: the column, of texts or of values whose texts are read.
        written: a format of strptime; empty to find the order.
        zone: of texts without one; empty for none.
    """

    # Batches come as they are.
    piece_rows: int | None = None

    def __init__(self, schema: pa.Schema, name: str, written: str, zone: str) -> None:
        self._name = name
        self._written = written
        self._zone = zone
        self._orders = ["format"] if written else list(ORDERS)
        self._is_zoned: bool | None = None
        kept = [field for field in schema if field.name != companion(name)]
        zoned = "UTC" if zone or "%z" in written.lower() else None
        kind = pa.timestamp("us", zoned)
        self.schema = pa.schema([pa.field(field.name, kind if field.name == name else field.type) for field in kept])

    def prepare(self, rows: Rows) -> None:
        """Find the order of day and month that all rows fit."""
        seen = 0
        for batch in rows():
            texts = texts_of(batch, self._name)
            fitting = [order for order in self._orders if first_misfit(texts, self._parser(order)) is None]
            if not fitting:
                row = first_misfit(texts, self._parser(self._orders[0])) or 0
                wanted = "time of the format" if self._written else "date (give a format)"
                raise BadValue(self._name, row, f"is not a valid {wanted}").after(seen)
            self._orders = fitting
            seen += batch.num_rows
        if len(self._orders) > 1:
            raise InvalidArgument(
                f"the day and month of column {self._name!r} are ambiguous: give a format, such as %d/%m/%Y or "
                "%m/%d/%Y",
                reason="AMBIGUOUS_DATES",
                metadata={"column": self._name},
            )

    def start(self, part: int) -> Callable[[pa.RecordBatch], pa.RecordBatch]:
        """Return what it does to the batches of a pass."""
        parse = self._parser(self._orders[0])

        def change(batch: pa.RecordBatch) -> pa.RecordBatch:
            columns = [
                parse(texts_of(batch, name)) if name == self._name else batch.column(name) for name in self.schema.names
            ]
            return pa.RecordBatch.from_arrays(columns, schema=self.schema)

        return change

    def _parser(self, order: str) -> Parse:
        kind = self.schema.field(self._name).type

        def parse(texts: pa.Array) -> pa.Array:
            if order == "format":
                found = by_format(texts, self._written, self._zone)
            else:
                found = as_times(texts, order, self._zone)
            if found.type.tz is not None and kind.tz is None:
                # An offset that the column's type did not foresee: UTC without a zone.
                found = found.cast(pa.timestamp(found.type.unit))
            return pc.cast(found, kind)

        return parse
