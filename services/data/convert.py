"""Between the contract's messages and the domain's types: pairs, pure, total."""

from collections.abc import Mapping
from datetime import UTC, datetime

from google.protobuf import json_format

from lepton.v1 import common_pb2, data_pb2
from servicekit.errors import InvalidArgument
from services.data.domain.import_options import ImportOptions
from services.data.domain.profile import ColumnProfile
from services.data.domain.types import (
    Column,
    ColumnKind,
    Content,
    Dataset,
    DatasetVersion,
    FileFormat,
    Import,
    Provenance,
    Recipe,
    Step,
)

# A version's description travels in events, which NATS takes up to 1 MB.
_RECIPE_BYTES = 256 << 10
FORMATS: dict["data_pb2.FileFormat.ValueType", FileFormat] = {
    data_pb2.FILE_FORMAT_CSV: FileFormat.CSV,
    data_pb2.FILE_FORMAT_PARQUET: FileFormat.PARQUET,
    data_pb2.FILE_FORMAT_JSON_LINES: FileFormat.JSON_LINES,
    data_pb2.FILE_FORMAT_ARROW: FileFormat.ARROW,
}
KINDS: dict[ColumnKind, "common_pb2.ColumnKind.ValueType"] = {
    ColumnKind.NUMERIC: common_pb2.COLUMN_KIND_NUMERIC,
    ColumnKind.CATEGORICAL: common_pb2.COLUMN_KIND_CATEGORICAL,
    ColumnKind.BOOLEAN: common_pb2.COLUMN_KIND_BOOLEAN,
    ColumnKind.TEMPORAL: common_pb2.COLUMN_KIND_TEMPORAL,
    ColumnKind.SERIES: common_pb2.COLUMN_KIND_SERIES,
    ColumnKind.OTHER: common_pb2.COLUMN_KIND_OTHER,
}


def format_from_proto(value: "data_pb2.FileFormat.ValueType") -> FileFormat:
    """Return a file's format.

    Raises:
        InvalidArgument: it is none of the known ones.
    """
    if value not in FORMATS:
        raise InvalidArgument(
            "unknown file format: expected CSV, PARQUET, JSON_LINES or ARROW", reason="UNKNOWN_FORMAT"
        )
    return FORMATS[value]


def import_from_proto(header: data_pb2.ImportHeader) -> Import:
    """Return what an import's header asks for.

    Raises:
        InvalidArgument: the format is unknown, or a step says nothing.
    """
    provenance = Provenance(header.label, header.source, recipe_from_proto(header.recipe), header.parent)
    options = options_from_proto(header.options)
    file_format = format_from_proto(header.format)
    return Import(header.dataset, file_format, header.delimiter, provenance, header.encoding, options)


def options_from_proto(message: data_pb2.ImportOptions) -> ImportOptions:
    """Return how a file is to be read."""
    return ImportOptions(
        types=dict(message.types),
        like=message.like,
        missing=tuple(message.missing.texts) if message.HasField("missing") else None,
        column_missing=_missing_from_proto(message.column_missing),
        decimal=message.decimal,
        thousands=message.thousands,
        quote=message.quote,
        escape=message.escape,
        no_header=message.no_header,
        names=tuple(message.names),
        skip=message.skip,
        comment=message.comment,
        date_formats=dict(message.date_formats),
        zone=message.zone,
        compression=message.compression,
    )


def options_to_proto(options: ImportOptions) -> data_pb2.ImportOptions:
    """Return the message of what a caller says of a file."""
    message = data_pb2.ImportOptions(
        types=options.types,
        like=options.like,
        column_missing=_missing_to_proto(options.column_missing),
        decimal=options.decimal,
        thousands=options.thousands,
        quote=options.quote,
        escape=options.escape,
        no_header=options.no_header,
        names=options.names,
        skip=options.skip,
        comment=options.comment,
        date_formats=options.date_formats,
        zone=options.zone,
        compression=options.compression,
    )
    if options.missing is not None:
        message.missing.CopyFrom(data_pb2.MissingTexts(texts=options.missing))
    return message


def _missing_to_proto(missing: Mapping[str, tuple[str, ...]]) -> dict[str, data_pb2.MissingTexts]:
    return {name: data_pb2.MissingTexts(texts=texts) for name, texts in missing.items()}


def _missing_from_proto(message: Mapping[str, data_pb2.MissingTexts]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(texts.texts) for name, texts in message.items()}


def recipe_from_proto(message: data_pb2.Recipe) -> Recipe:
    """Return a recipe.

    Raises:
        InvalidArgument: a step says nothing, or all say too much.
    """
    if message.ByteSize() > _RECIPE_BYTES:
        raise InvalidArgument(
            f"the recipe takes {message.ByteSize():,} bytes, at most {_RECIPE_BYTES:,} are kept",
            reason="RECIPE_TOO_LARGE",
        )
    return Recipe(
        tuple(_step_from_proto(step, number) for number, step in enumerate(message.steps, 1)),
        message.edited_by_client,
    )


def recipe_to_proto(recipe: Recipe) -> data_pb2.Recipe:
    """Return a recipe's message."""
    steps = [json_format.ParseDict({step.kind: step.arguments}, data_pb2.Step()) for step in recipe.steps]
    return data_pb2.Recipe(steps=steps, edited_by_client=recipe.edited_by_client)


def version_to_proto(version: DatasetVersion) -> data_pb2.DatasetVersion:
    """Return a version's message."""
    message = data_pb2.DatasetVersion(
        dataset=version.dataset,
        number=version.number,
        digest=version.content.digest,
        columns=[_column_to_proto(column) for column in version.content.columns],
        rows=version.content.rows,
        size_bytes=version.content.size_bytes,
        label=version.provenance.label,
        recipe=recipe_to_proto(version.provenance.recipe),
        parent=version.provenance.parent,
        source=version.provenance.source,
        notes=version.provenance.notes,
        missing=_missing_to_proto(version.provenance.missing),
        options=options_to_proto(version.provenance.options),
    )
    message.create_time.FromDatetime(version.create_time)
    return message


def version_from_proto(message: data_pb2.DatasetVersion, workspace: str, table: str, profile: str) -> DatasetVersion:
    """Return the version of a message, with what the message does not tell: its workspace and objects."""
    columns = tuple(
        Column(column.name, column.arrow_type, column.nullable, column.keeps_texts) for column in message.columns
    )
    content = Content(table, profile, message.digest, columns, message.rows, message.size_bytes)
    provenance = Provenance(
        message.label,
        message.source,
        recipe_from_proto(message.recipe),
        message.parent,
        tuple(message.notes),
        _missing_from_proto(message.missing),
        options_from_proto(message.options),
    )
    created = message.create_time.ToDatetime(tzinfo=UTC)
    return DatasetVersion(workspace, message.dataset, message.number, content, provenance, created)


def dataset_to_proto(dataset: Dataset) -> data_pb2.Dataset:
    """Return a dataset's message."""
    message = data_pb2.Dataset(name=dataset.name, latest_version=dataset.latest_version)
    message.create_time.FromDatetime(_utc(dataset.create_time))
    return message


def profile_to_proto(columns: list[ColumnProfile]) -> data_pb2.DatasetProfile:
    """Return a profile's message."""
    return data_pb2.DatasetProfile(
        columns=[
            data_pb2.ColumnProfile(
                name=column.name,
                missing=column.missing,
                distinct=column.distinct,
                minimum=column.minimum,
                maximum=column.maximum,
                mean=column.mean,
                standard_deviation=column.standard_deviation,
                quartiles=column.quartiles,
                top=[data_pb2.ValueCount(value=value, count=count) for value, count in column.top],
            )
            for column in columns
        ]
    )


def profile_from_proto(message: data_pb2.DatasetProfile) -> list[ColumnProfile]:
    """Return the profile of a message."""
    return [
        ColumnProfile(
            column.name,
            column.missing,
            column.distinct,
            column.minimum if column.HasField("minimum") else None,
            column.maximum if column.HasField("maximum") else None,
            column.mean if column.HasField("mean") else None,
            column.standard_deviation if column.HasField("standard_deviation") else None,
            tuple(column.quartiles),
            tuple((item.value, item.count) for item in column.top),
        )
        for column in message.columns
    ]


def _column_to_proto(column: Column) -> common_pb2.Column:
    return common_pb2.Column(
        name=column.name,
        kind=KINDS[column.kind],
        arrow_type=column.arrow_type,
        nullable=column.nullable,
        keeps_texts=column.keeps_texts,
    )


def _step_from_proto(step: data_pb2.Step, number: int) -> Step:
    kind = step.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument(f"step {number} of the recipe says nothing", reason="BAD_RECIPE")
    arguments = json_format.MessageToDict(
        getattr(step, kind), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return Step(kind, arguments)


def _utc(time: datetime) -> datetime:
    # SQLite forgets the zone; what it holds is UTC.
    return time if time.tzinfo else time.replace(tzinfo=UTC)
