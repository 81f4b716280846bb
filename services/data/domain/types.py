"""What the data service is about: datasets, their immutable versions, recipes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

import pyarrow as pa

from servicekit.errors import InvalidArgument
from services.data.domain.columns import SERIES
from services.data.domain.import_options import ImportOptions
from services.data.domain.original_texts import companion, is_companion

# What fits 64 bits.
_NUMBER_DIGITS = 18


class FileFormat(Enum):
    """The format of an imported file."""

    CSV = "CSV"
    PARQUET = "Parquet"
    JSON_LINES = "JSON"
    ARROW = "Arrow"


class ColumnKind(Enum):
    """How models read a column."""

    NUMERIC = "numeric"
    CATEGORICAL = "categorical"
    BOOLEAN = "boolean"
    TEMPORAL = "temporal"
    SERIES = "series"
    OTHER = "other"


@dataclass(frozen=True)
class Column:
    """One column of a version.

    Args:
        name: unique in the version.
        arrow_type: Arrow's own name for its type.
        nullable: whether a row without a value was seen.
        keeps_texts: whether the imported file's texts are kept where they are not the canonical ones of the values.
    """

    name: str
    arrow_type: str
    nullable: bool
    keeps_texts: bool = False

    @property
    def kind(self) -> ColumnKind:
        """How models read it."""
        return kind_of(self.arrow_type)


@dataclass(frozen=True)
class Step:
    """One step of a recipe.

    Args:
        kind: drop_missing, fill_missing, drop_columns, drop_duplicates, rename, cast, filter, split, sample or windows.
        arguments: by name, as the contract has them.
    """

    kind: str
    arguments: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How a version came to be.

    Args:
        steps: first first.
        edited_by_client: whether rows were changed outside this vocabulary, too.
    """

    steps: tuple[Step, ...] = ()
    edited_by_client: bool = False


@dataclass(frozen=True)
class Content:
    """What was stored of a table.

    Args:
        table: name of the encrypted Parquet object.
        profile: name of the encrypted profile object.
        digest: SHA-256 of the canonical content.
        columns: in order.
        rows: how many.
        size_bytes: size of the Parquet object.
    """

    table: str
    profile: str
    digest: str
    columns: tuple[Column, ...]
    rows: int
    size_bytes: int


@dataclass(frozen=True)
class Provenance:
    """Where a version came from.

    Args:
        label: the column that models predict by default.
        source: the file, as the user knows it.
        recipe: the steps that made it.
        parent: the version that the steps started from, as name@number.
        notes: what the import decided and the user may want otherwise.
        missing: the texts that were missing values, by column, where they are not the default list.
        options: what the caller said of the file.
    """

    label: str = ""
    source: str = ""
    recipe: Recipe = Recipe()
    parent: str = ""
    notes: tuple[str, ...] = ()
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    options: ImportOptions = field(default_factory=ImportOptions)


@dataclass(frozen=True)
class Import:
    """What a caller wants of an upload.

    Args:
        dataset: where it goes.
        file_format: how to read it.
        delimiter: of a CSV file; empty to find it.
        provenance: what the caller tells of its origin; its label must be one of the columns, or empty.
        encoding: of a text file; empty for UTF-8.
        options: how it is read, where the defaults do not fit.
    """

    dataset: str
    file_format: FileFormat
    delimiter: str
    provenance: Provenance
    encoding: str = ""
    options: ImportOptions = field(default_factory=ImportOptions)


@dataclass(frozen=True)
class DatasetVersion:
    """An immutable table.

    Args:
        workspace, dataset, number: which one it is.
        content: what was stored.
        provenance: where it came from.
        create_time: when.
    """

    workspace: str
    dataset: str
    number: int
    content: Content
    provenance: Provenance
    create_time: datetime

    @property
    def ref(self) -> str:
        """name@number."""
        return f"{self.dataset}@{self.number}"


@dataclass(frozen=True)
class Dataset:
    """A named series of versions."""

    name: str
    latest_version: int
    create_time: datetime


def parse_ref(ref: str) -> tuple[str, int | None]:
    """Return the name and number of `name@number`; None for the newest where only the name is given.

    Raises:
        InvalidArgument: it is neither.
    """
    name, separator, number = ref.partition("@")
    if separator and not (number.isascii() and number.isdecimal() and len(number) <= _NUMBER_DIGITS):
        raise InvalidArgument(
            f"{ref!r} is no dataset version: expected name@number, or the name alone for the newest",
            reason="BAD_REFERENCE",
        )
    return name, int(number) if separator else None


def kind_of(arrow_type: str) -> ColumnKind:
    """Return how models read values of an Arrow type."""
    if arrow_type == "bool":
        return ColumnKind.BOOLEAN
    if arrow_type in ("string", "large_string"):
        return ColumnKind.CATEGORICAL
    if arrow_type.startswith(("int", "uint", "float", "double", "halffloat", "decimal")):
        return ColumnKind.NUMERIC
    if arrow_type.startswith(("timestamp", "date", "time", "duration")):
        return ColumnKind.TEMPORAL
    if arrow_type == str(SERIES):
        return ColumnKind.SERIES
    return ColumnKind.OTHER


def columns_of(schema: pa.Schema, valid: list[int], rows: int) -> tuple[Column, ...]:
    """Return a stored schema's columns.

    Args:
        schema: of the stored table, companions among its columns.
        valid: rows with a value, by column.
        rows: of the table.
    """
    kept = {field.name for field, count in zip(schema, valid, strict=True) if is_companion(field.name) and count}
    return tuple(
        Column(field.name, str(field.type), count < rows, companion(field.name) in kept)
        for field, count in zip(schema, valid, strict=True)
        if not is_companion(field.name)
    )
