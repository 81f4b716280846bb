"""Applies a recipe to a table while its rows stream by: bounded memory, no disk, the rows' order kept.

Every step reads batches and gives batches. Where a step must know all rows first, the rows up to it are read once more.
The same version and recipe give the same rows, hence the same digest.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.casts import BadValue
from services.data.domain.steps import AnyStep, make_step
from services.data.domain.types import Recipe
from services.data.domain.windows import Windows

OpenTable = Callable[[], Iterator[pa.RecordBatch]]


class Transform:
    """A recipe, checked against a table's columns.

    Args:
        recipe: the steps.
        schema: of the table.

    Raises:
        InvalidArgument: a step does not fit the columns; the message names it by number.
    """

    def __init__(self, recipe: Recipe, schema: pa.Schema) -> None:
        if not recipe.steps:
            raise InvalidArgument("the recipe has no steps", reason="EMPTY_RECIPE")
        self._recipe = recipe
        self._steps: list[AnyStep] = []
        self._prepared = 0
        self.schema = schema
        for index, step in enumerate(recipe.steps):
            with self._named(index):
                if step.kind == "split" and index + 1 < len(recipe.steps):
                    raise InvalidArgument("a split may stand only last", reason="BAD_RECIPE")
                self._steps.append(make_step(step.kind, self.schema, step.arguments))
            self.schema = self._steps[-1].schema

    @property
    def parts(self) -> int:
        """How many tables it gives: two where the recipe ends in a split."""
        return 2 if self._recipe.steps[-1].kind == "split" else 1

    def label_after(self, label: str) -> str:
        """Return the label's name after the steps; empty where its column is dropped."""
        for step, made in zip(self._recipe.steps, self._steps, strict=True):
            names = step.arguments.get("names")
            if step.kind == "rename" and isinstance(names, dict):
                label = str(names.get(label, label))
            if isinstance(made, Windows) and made.goal:
                label = made.goal
        return label if label in self.schema.names else ""

    def run(self, open_table: OpenTable, part: int = 0) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a part: 0 the only one, or what trains; 1 what tests. Blocks: use a thread.

        Args:
            open_table: reads the table from the start, always in the same batches; called once a pass.
            part: which one.

        Raises:
            InvalidArgument: a value does not convert, or a part would be empty; the message names the step.
        """
        self._prepare(open_table)
        yield from self._rows(open_table, len(self._steps), part)

    def _prepare(self, open_table: OpenTable) -> None:
        for index in range(self._prepared, len(self._steps)):

            def rows(count: int = index) -> Iterator[pa.RecordBatch]:
                return self._rows(open_table, count, 0)

            with self._named(index):
                self._steps[index].prepare(rows)
            self._prepared = index + 1

    def _rows(self, open_table: OpenTable, count: int, part: int) -> Iterator[pa.RecordBatch]:
        """Return what the first so many steps make."""
        batches = open_table()
        for index in range(count):
            batches = self._changed(index, part, batches)
        return batches

    def _changed(self, index: int, part: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield what a step makes of batches."""
        step = self._steps[index]
        change = step.start(part)
        rows = 0
        for batch in batches:
            for piece in _pieces(batch, step.piece_rows):
                with self._named(index, rows):
                    changed = change(piece)
                rows += piece.num_rows
                yield changed

    @contextlib.contextmanager
    def _named(self, index: int, rows: int = 0) -> Iterator[None]:
        """Name the step in what it raises, unless an earlier one that it reads from is to blame.

        Args:
            index: of the step.
            rows: that it was given before.
        """
        try:
            yield
        except BadValue as error:
            place = error.after(rows)
            raise self._blamed(index, place.message, place.reason, place.metadata) from error
        except InvalidArgument as error:
            if "step" in error.metadata:
                raise
            raise self._blamed(index, error.message, error.reason, error.metadata) from error
        except pa.ArrowInvalid as error:
            # Not the library's words: they may hold a value.
            message = f"in data rows {rows + 1:,} or later a number grows beyond what its type holds"
            raise self._blamed(index, message, "VALUE_DOES_NOT_CONVERT", {"row": str(rows + 1)}) from error

    def _blamed(self, index: int, message: str, reason: str, metadata: Mapping[str, str]) -> InvalidArgument:
        return InvalidArgument(
            f"step {index + 1} ({self._recipe.steps[index].kind}): {message}",
            reason=reason,
            metadata={**metadata, "step": str(index + 1)},
        )


def _pieces(batch: pa.RecordBatch, most_rows: int | None) -> Iterator[pa.RecordBatch]:
    if most_rows is None or batch.num_rows <= most_rows:
        yield batch
        return
    for start in range(0, batch.num_rows, most_rows):
        yield batch.slice(start, most_rows)
