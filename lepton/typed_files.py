"""Files of rows, read by the types of a model's signature: nothing is guessed from the file."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pandas as pd

from lepton import errors
from lepton.column_types import microseconds
from lepton.v1 import common_pb2

# What the data service reads as missing in a text file, too.
MISSING = frozenset(
    (
        *("", "<NA>", "N/A", "NA", "NULL", "None", "n/a", "null", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN"),
        *("-NaN", "-nan", "1.#IND", "1.#QNAN", "NaN", "nan"),
    )
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TRUTH = {"true": True, "false": False}
# Those that an import finds by itself; "" where the header says which one it is.
_DELIMITERS = (",", ";", "\t", "|")
_TEXT_FILES = {".csv": "", ".txt": "", ".tsv": "\t"}
_OPENERS: dict[str, Callable[..., IO[str]]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True)
class RowsFile:
    """A file's rows before a model's types are known.

    Args:
        frame: the rows.
        is_text: whether its values are the texts of the file.
    """

    frame: pd.DataFrame
    is_text: bool

    def typed(self, signature: common_pb2.Signature) -> pd.DataFrame:
        """Return the rows, the columns that a model reads in its types, the others as they are in the file.

        Raises:
            InvalidArgument: a value is none of its column's type; the message names row and column.
        """
        if not self.is_text:
            return self.frame
        inputs = [spec for spec in signature.inputs if spec.name in self.frame.columns]
        return self.frame.assign(**{spec.name: _typed(self.frame[spec.name], spec) for spec in inputs})


def read_rows(path: Path) -> RowsFile:
    """Return a file's rows.

    Args:
        path: .csv, .tsv, .txt, .parquet or .jsonl; texts also with .gz, .bz2 or .xz. The delimiter of a .csv or .txt
            file is the one of `,`, `;`, tab and `|` that divides its header most often.

    Raises:
        InvalidArgument: the file's name says no format that is read, or its rows are not of one length.
    """
    compression = path.suffix.lower() if path.suffix.lower() in _OPENERS else ""
    suffix = Path(path.stem).suffix.lower() if compression else path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return RowsFile(pd.read_parquet(path), is_text=False)
    if suffix in (".jsonl", ".ndjson"):
        return RowsFile(_read_json_lines(path), is_text=False)
    if suffix not in _TEXT_FILES:
        raise errors.InvalidArgument(
            f"cannot read {path.name}: expected .csv, .tsv, .txt, .parquet or .jsonl; texts also with .gz, .bz2 or .xz"
        )
    return RowsFile(_read_texts(path, _TEXT_FILES[suffix]), is_text=True)


def _open_text(path: Path) -> IO[str]:
    opener: Callable[..., IO[str]] = _OPENERS.get(path.suffix.lower(), open)
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _read_texts(path: Path, delimiter: str) -> pd.DataFrame:
    with _open_text(path) as file:
        text = file.read()
    delimiter = delimiter or _find_delimiter(text)
    lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if line]
    names, rows = (lines[0], lines[1:]) if lines else ([], [])
    ragged = next((place for place, row in enumerate(rows) if len(row) != len(names)), None)
    if ragged is not None:
        raise errors.InvalidArgument(
            f"row {ragged + 1} of {path.name} has {len(rows[ragged])} values where the header has {len(names)} columns",
            reason="RAGGED_ROW",
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise errors.InvalidArgument(f"two columns of {path.name} are named {twice!r}", reason="DUPLICATE_COLUMN")
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    found = {name: pd.Series(values, dtype=object) for name, values in zip(names, columns, strict=True)}
    return pd.DataFrame(found, index=range(len(rows)))


def _find_delimiter(text: str) -> str:
    """Return what divides the header into the most names; a comma where nothing does."""

    def names(delimiter: str) -> int:
        return len(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), []))

    return max(_DELIMITERS, key=names)


def _read_json_lines(path: Path) -> pd.DataFrame:
    # Not by pandas, which makes numbers of texts.
    with _open_text(path) as lines:
        records = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(record, dict) for record in records):
        raise errors.InvalidArgument(f"{path.name} holds a line that is no JSON object", reason="UNREADABLE_FILE")
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {name: pd.Series([record.get(name) for record in records], dtype=object) for name in names}
    return pd.DataFrame(columns, index=range(len(records)))


def _typed(texts: "pd.Series[Any]", spec: common_pb2.TensorSpec) -> "pd.Series[Any]":
    read, expected = _reader(spec)
    missing = _missing_of(spec)
    values: list[Any] = []
    for row, text in enumerate(texts):
        if text in missing:
            values.append(None)
            continue
        try:
            values.append(read(text))
        except (ValueError, KeyError, OverflowError) as error:
            raise errors.InvalidArgument(
                f"row {row + 1}, column {spec.name!r}: expected {expected}, as the model was trained on",
                reason="COLUMN_TYPE",
            ) from error
    return pd.Series(values, index=texts.index, dtype=object)


def _missing_of(spec: common_pb2.TensorSpec) -> frozenset[str]:
    """Return the texts that are missing values of an input: in columns of texts `None` is a text, as at import."""
    return MISSING - {"None", *spec.categories} if spec.datatype == "BYTES" else MISSING


def _reader(spec: common_pb2.TensorSpec) -> tuple[Callable[[str], Any], str]:
    """Return what reads a text as a value of an input, and what that is, for people."""
    if spec.datatype == "BYTES":
        return str, "a text"
    if spec.kind == common_pb2.COLUMN_KIND_TEMPORAL:
        return _moment, "a date or time in ISO 8601"
    if spec.datatype == "BOOL" or spec.kind == common_pb2.COLUMN_KIND_BOOLEAN:
        return lambda text: _TRUTH[text.strip().lower()], "true or false"
    if spec.datatype.startswith(("FP", "BF")):
        return _number, "a number"
    return _whole, "a whole number"


def _moment(text: str) -> pd.Timestamp:
    return pd.Timestamp(microseconds(text.strip()), unit="us", tz="UTC")


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError("no number")
    return float(text)


def _whole(text: str) -> int:
    try:
        return int(text) if _NUMBER.fullmatch(text.strip()) else _not_whole()
    except ValueError:
        number = _number(text)
        return int(number) if number.is_integer() else _not_whole()


def _not_whole() -> int:
    raise ValueError("no whole number")
