"""How files are read at import: options by Python's types, checked here and kept to the platform's contract."""

import zipfile
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypedDict, cast

from lepton import errors, names
from lepton.arguments import as_list, build, to_names, type_name, unknown
from lepton.v1 import common_pb2, data_pb2, registry_pb2

if TYPE_CHECKING:
    from lepton.connection import Connection

_CSV, _JSON = data_pb2.FILE_FORMAT_CSV, data_pb2.FILE_FORMAT_JSON_LINES
FORMATS = {
    ".csv": _CSV,
    ".tsv": _CSV,
    ".txt": _CSV,
    ".parquet": data_pb2.FILE_FORMAT_PARQUET,
    ".pq": data_pb2.FILE_FORMAT_PARQUET,
    ".jsonl": _JSON,
    ".ndjson": _JSON,
    ".json": _JSON,
    ".arrow": data_pb2.FILE_FORMAT_ARROW,
    ".feather": data_pb2.FILE_FORMAT_ARROW,
    ".ipc": data_pb2.FILE_FORMAT_ARROW,
}
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
_TYPES = {"BOOL": "bool", "BYTES": "string", "FP32": "double", "FP64": "double"}
_EVERY_COLUMN = "*"


class ReadOptions(TypedDict, total=False):
    """How a file is read, where the defaults do not fit.

    Args:
        format: of the file, as its ending would say: csv, tsv, parquet, jsonl, json, arrow; by default by its name.
        types: Arrow type name (string, int64, double, bool, timestamp[us], ...) by column. Values that do not fit are
            refused, all columns at once. Other types are found from the values.
        like: a dataset version or a model (name@number, name, Dataset, ModelVersion or a trained model): columns are
            read as its types, and values that do not fit are refused.
        missing: texts that are missing values, in place of the default list; by column: {"income": ["-", "?"]}, where
            the column "*" is all others. An empty list: nothing is missing.
        delimiter: of a CSV file; by default found among comma, semicolon, tab and pipe.
        decimal: the decimal mark of numbers; by default a point.
        thousands: the mark between groups of three digits.
        quote: of a CSV file, by default a double quote; "none" for no quoting.
        escape: the character that takes the meaning from the next one.
        header: False for a file without column names, which become column_1, column_2, ...; a list names them.
        skip: lines before the header.
        comment: lines that begin with it are skipped.
        dates: a format of strptime such as "%d.%m.%Y" for all columns that fit it; by column: values must fit.
        zone: of times without one, such as "Europe/Berlin"; they are stored as UTC.
        compression: gzip, bz2, xz, zstd, zip (of one file) or none; by default detected.
    """

    format: str
    types: Mapping[str, str]
    like: Any
    missing: Sequence[str] | Mapping[str, Sequence[str]]
    delimiter: str
    decimal: str
    thousands: str
    quote: str
    escape: str
    header: bool | Sequence[str]
    skip: int
    comment: str
    dates: str | Mapping[str, str]
    zone: str
    compression: str


class FrameOptions(TypedDict, total=False):
    """Those of `ReadOptions` that a DataFrame has."""

    types: Mapping[str, str]
    like: Any
    missing: Sequence[str] | Mapping[str, Sequence[str]]
    dates: str | Mapping[str, str]
    zone: str


def frame_options(options: FrameOptions, connection: "Connection") -> data_pb2.ImportOptions:
    """Return a frame's options as the data service reads them.

    Raises:
        InvalidArgument: one is unknown or of another type.
        NotFound: `like` names neither a dataset version nor a model.
    """
    for name in options:
        if name not in FrameOptions.__annotations__:
            raise unknown(name, FrameOptions.__annotations__, "argument")
    # Every option of a frame is one of a file.
    return to_message(cast(ReadOptions, options), connection)


def file_header(path: Path, name: str | None, options: ReadOptions, connection: "Connection") -> data_pb2.ImportHeader:
    """Return the header of a file's import.

    Args:
        path: the file.
        name: the dataset's id; None to make it from the file's name.
        options: how it is read.
        connection: the platform, for what `like` names.

    Raises:
        InvalidArgument: the format is unknown, or an option is unknown or of another type.
    """
    check_options(options)
    stem, ending, _ = _parts(path)
    wanted = f".{options['format'].lower().lstrip('.')}" if options.get("format") else ending
    if wanted not in FORMATS:
        raise errors.InvalidArgument(
            f"cannot tell the format of {path.name!r} from its name: expected one of {', '.join(FORMATS)}, texts also "
            f"with {', '.join(COMPRESSIONS)} behind, or give format=",
            reason="UNKNOWN_FORMAT",
        )
    tab = "\t" if wanted == ".tsv" else ""
    return build(
        data_pb2.ImportHeader,
        dataset=name or names.to_id(stem),
        format=FORMATS[wanted],
        request_id=names.request_id(),
        source=path.name,
        delimiter=options.get("delimiter") or tab,
        options=to_message(options, connection),
    )


def check_options(options: ReadOptions) -> None:
    """Refuse options that there are none of.

    Raises:
        InvalidArgument: one is unknown; the message names it.
    """
    for name in options:
        if name not in ReadOptions.__annotations__:
            raise unknown(name, ReadOptions.__annotations__, "argument")


def to_message(options: ReadOptions, connection: "Connection") -> data_pb2.ImportOptions:
    """Return options as the data service reads them.

    Raises:
        InvalidArgument: one is of another type.
        NotFound: `like` names neither a dataset version nor a model.
    """
    # None is the default of each.
    options = cast(ReadOptions, {name: value for name, value in options.items() if value is not None})
    like, types = _like(options.get("like"), connection)
    header = options.get("header", True)
    if isinstance(header, Real) and not isinstance(header, bool):
        raise errors.InvalidArgument(
            "header is True, False or the columns' names, got a number: skip=N leaves out the first N lines",
            reason="BAD_ARGUMENT",
        )
    dates = options.get("dates", "")
    missing = _missing(options.get("missing"))
    every = missing.pop(_EVERY_COLUMN, None)
    plain = ("decimal", "thousands", "quote", "escape", "comment", "zone", "compression")
    fields: dict[str, Any] = {name: options.get(name, "") for name in plain}
    return build(
        data_pb2.ImportOptions,
        types={**types, **_texts(options.get("types", {}), "types")},
        like=like,
        missing=every,
        column_missing=missing,
        no_header=header is not True,
        names=[] if isinstance(header, bool) else to_names(header, "header"),
        skip=options.get("skip", 0),
        date_formats=_texts({_EVERY_COLUMN: dates} if isinstance(dates, str) and dates else dates or {}, "dates"),
        **fields,
    )


def _parts(path: Path) -> tuple[str, str, str]:
    """Return a file's name without its endings, the ending of its format, and that of its compression."""
    packed = path.suffix.lower() if path.suffix.lower() in COMPRESSIONS else ""
    inner = PurePosixPath(path.name[: -len(packed)] if packed else path.name)
    if packed == ".zip" and inner.suffix.lower() not in FORMATS:
        return inner.name, _ending_in(path), packed
    return inner.stem, inner.suffix.lower(), packed


def _ending_in(path: Path) -> str:
    """Return the ending of the only file of an archive; empty where it is unknown."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [PurePosixPath(name).suffix.lower() for name in archive.namelist() if "__MACOSX" not in name]
    except (OSError, zipfile.BadZipFile):
        return ".csv"
    found = {ending for ending in inside if ending in FORMATS}
    return found.pop() if len(found) == 1 else ""


def _missing(given: object) -> dict[str, data_pb2.MissingTexts]:
    if given is None:
        return {}
    by_column = given if isinstance(given, Mapping) else {_EVERY_COLUMN: given}
    return {
        str(column): data_pb2.MissingTexts(texts=[str(text) for text in as_list(texts, "missing")])
        for column, texts in by_column.items()
    }


def _texts(given: object, argument: str) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise errors.InvalidArgument(
            f"{argument} takes a mapping by column, got a {type(given).__name__}", reason="BAD_ARGUMENT"
        )
    return {str(name): str(type_name(value)) for name, value in given.items()}


def _like(given: Any, connection: "Connection") -> tuple[str, dict[str, str]]:
    """Return the dataset version that a file is to be like, or the types of a model's columns."""
    if given is None or given == "":
        return "", {}
    message = getattr(given, "message", None)
    if isinstance(message, data_pb2.DatasetVersion):
        return f"{message.dataset}@{message.number}", {}
    if isinstance(message, registry_pb2.Version):
        return _like_model(message, connection)
    if hasattr(given, "trained_version"):
        return _like_model(given.trained_version().message, connection)
    if not isinstance(given, str):
        raise errors.InvalidArgument(
            f"like takes a dataset version or a model, got a {type(given).__name__}", reason="BAD_ARGUMENT"
        )
    try:
        connection.data.GetDatasetVersion(build(data_pb2.GetDatasetVersionRequest, ref=given))
        return given, {}
    except (errors.NotFound, errors.InvalidArgument):
        version = connection.registry.GetVersion(build(registry_pb2.GetVersionRequest, ref=given))
        return _like_model(version, connection)


def _like_model(version: registry_pb2.Version, connection: "Connection") -> tuple[str, dict[str, str]]:
    """Return the dataset version that a model was trained on; where that is gone, the types of the model's inputs."""
    dataset = version.lineage.dataset
    if dataset:
        try:
            connection.data.GetDatasetVersion(data_pb2.GetDatasetVersionRequest(ref=dataset))
            return dataset, {}
        except errors.NotFound:
            pass
    types = {}
    for spec in version.signature.inputs:
        kind = _TYPES.get(spec.datatype, "int64" if spec.datatype.startswith(("INT", "UINT")) else "")
        # A time is a number on the wire, and a series is a tensor of more dimensions.
        if kind and spec.kind not in (common_pb2.COLUMN_KIND_TEMPORAL, common_pb2.COLUMN_KIND_SERIES):
            types[spec.name] = kind
    return "", types
