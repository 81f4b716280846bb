"""Tables whose rows are one thing each, a text or an image in base64, and what is said of it."""

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.training.domain.families.frame import Column, normalize, texts


def describe_single(table: pa.Table, target: str) -> tuple[Column, ...]:
    """Return the one column of texts of a normalised table, beside the target: texts, or images in base64.

    Raises:
        InvalidArgument: there is none, or there are several columns.
    """
    names = [name for name in table.column_names if name != target]
    if len(names) != 1:
        listed = ", ".join(names[:50]) or "none"
        raise InvalidArgument(
            f"a family that reads texts or images takes one column beside the target {target!r}, got {listed}: drop "
            "the others (drop_columns)",
            reason="NOT_ONE_TEXT_COLUMN",
        )
    check_text(table, names[0])
    found = (Column(names[0], "text", "BYTES", nullable=False),)
    row_texts(table, found)
    return found


def check_text(table: pa.Table, name: str) -> None:
    """Check that a column of a table holds texts.

    Raises:
        InvalidArgument: it does not.
    """
    kind = table.column(name).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InvalidArgument(f"column {name!r} holds {kind} values, no texts", reason="NOT_TEXT")


def row_texts(table: pa.Table, columns: tuple[Column, ...]) -> list[str]:
    """Return the texts of a table's rows.

    Raises:
        InvalidArgument: the column lacks, holds no texts, or a row has none.
    """
    (column,) = columns
    table = normalize(table)
    if column.name not in table.column_names:
        raise InvalidArgument(f"the table lacks the columns {column.name}", reason="COLUMN_MISSING")
    try:
        values: list[str] = texts(table.column(column.name)).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InvalidArgument(f"column {column.name!r} holds no texts", reason="COLUMN_TYPE") from error
    empty = next((place for place, text in enumerate(values) if not text.strip()), None)
    if empty is not None:
        raise InvalidArgument(
            f"row {empty + 1} has no text in {column.name!r}: drop such rows first (dropna, or the step drop_missing)",
            reason="TEXT_MISSING",
        )
    return values
