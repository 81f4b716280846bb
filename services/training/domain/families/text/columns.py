"""Which columns of texts a Transformer reads, and what for: a class, what two texts are to each other, a vector."""

from collections.abc import Mapping

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Column
from services.training.domain.families.single_column import check_text, row_texts
from services.training.domain.families.target import EMBEDDING, Target, describe_positives, describe_target

PAIR, CLASSIFICATION = "pair", "classification"
# One text a row, or two that are read together.
Reading = str | tuple[str, str]


def describe_texts(table: pa.Table, target: str, settings: Mapping[str, object]) -> tuple[tuple[Column, ...], Target]:
    """Return the one or two columns of texts of a normalised table beside the target, and what is learned of them.

    Raises:
        InvalidArgument: there are fewer or more columns than the task takes, or the target does not suit it.
    """
    names = [name for name in table.column_names if name != target]
    task = str(settings["task"])
    if task == "auto":
        task = PAIR if len(names) == 2 else CLASSIFICATION
    if task == EMBEDDING:
        goal = describe_positives(table, target)
    else:
        goal = describe_target(table, target, classify=None if task == PAIR else True)
    if len(names) != (2 if task == PAIR else 1):
        raise _wrong_count(task, target, names)
    columns = tuple(Column(name, "text", "BYTES", nullable=False) for name in names)
    for column in columns:
        check_text(table, column.name)
    readings(table, columns)
    return columns, goal


def task_of(columns: tuple[Column, ...], target: Target) -> str:
    """Return the task of a model that was trained here."""
    if target.task == EMBEDDING:
        return EMBEDDING
    return PAIR if len(columns) == 2 else CLASSIFICATION


def readings(table: pa.Table, columns: tuple[Column, ...]) -> list[Reading]:
    """Return the texts of a table's rows, or the pairs of texts.

    Raises:
        InvalidArgument: a column lacks, holds no texts, or a row has none.
    """
    found = [row_texts(table, (column,)) for column in columns]
    return list(found[0]) if len(found) == 1 else list(zip(found[0], found[1], strict=True))


def _wrong_count(task: str, target: str, names: list[str]) -> InvalidArgument:
    listed = ", ".join(names[:50]) or "none"
    if task == PAIR:
        return InvalidArgument(
            f"pairs are read from two columns of texts beside the target {target!r}, got {listed}: name the others in "
            "drop_columns",
            reason="NOT_TWO_TEXT_COLUMNS",
        )
    what = "embeddings are learned from one column of texts" if task == EMBEDDING else "it reads one column of texts"
    more = "" if task == EMBEDDING else ", or two that are read together (task='pair')"
    return InvalidArgument(
        f"{what} beside the target {target!r}{more}, got {listed}: drop the others (drop_columns)",
        reason="NOT_ONE_TEXT_COLUMN",
    )
