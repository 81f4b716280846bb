"""Datasets: import, list, look at, transform, read, delete.

import lepton

credit = lepton.Dataset.import_file("german_credit.csv", label="creditability")
train, test = credit.transform(steps.drop_missing(), steps.split(0.2, seed=7))
train.to_pandas()
"""

import hashlib
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Unpack

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lepton import errors, names, progress, steps
from lepton.arguments import as_list, build, to_names
from lepton.arrow_frames import to_frame, to_table
from lepton.connection import Connection, current
from lepton.deletions import describe_broken
from lepton.reading import FrameOptions, ReadOptions, file_header, frame_options
from lepton.tables import html_table
from lepton.v1 import data_pb2

CHUNK_BYTES = 1 << 20


class ImportNote(UserWarning):
    """What an import decided and the user may want otherwise."""


@dataclass(frozen=True)
class Dataset:
    """One immutable version of a dataset.

    Args:
        connection: the platform that holds it.
        message: what the data service says of it.
    """

    connection: Connection
    message: data_pb2.DatasetVersion

    @classmethod
    def import_file(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        label: str = "",
        encoding: str = "",
        connection: Connection | None = None,
        **options: Unpack[ReadOptions],
    ) -> "Dataset":
        """Upload a file as it is: CSV (.csv, .tsv, .txt), Parquet, JSON (.jsonl, .json) or Arrow (.arrow, .feather).

        Text files may be compressed (.gz, .bz2, .xz, .zst, .zip). A new version of a dataset keeps the types that its
        newest version's columns have, where values fit. What the import decided is in `notes`, and given as warnings.

        Args:
            path: the file; it is streamed, never whole in memory.
            name: the dataset's id; by default made from the file's name.
            label: the column that models predict by default.
            encoding: how a text file spells its characters: 'gb18030', 'cp1252', 'utf-16', ...; empty for UTF-8.
            connection: the platform; by default the one in use.
            options: how the file is read, where the defaults do not fit: see `lepton.reading.ReadOptions`.

        Raises:
            FileNotFoundError: there is no such file.
            InvalidArgument: the platform cannot read the file; the message says where and why.
        """
        path = Path(path)
        connection = connection or current()
        header = file_header(path, name, options, connection)
        header.MergeFrom(build(data_pb2.ImportHeader, label=label, encoding=encoding))
        with open(path, "rb") as file:
            dataset = cls._import(header, file, path.stat().st_size, connection)
        for note in dataset.notes:
            warnings.warn(f"{path.name}: {note}", ImportNote, stacklevel=2)
        return dataset

    @classmethod
    def import_frame(
        cls,
        frame: pd.DataFrame,
        name: str,
        *,
        label: str = "",
        recipe: data_pb2.Recipe | None = None,
        parent: str = "",
        connection: Connection | None = None,
        **options: Unpack[FrameOptions],
    ) -> "Dataset":
        """Upload a DataFrame's rows; its index is left behind.

        Args:
            frame: the rows.
            name: the dataset's id.
            label: the column that models predict by default.
            recipe: what made the frame, kept as provenance.
            parent: the version that the recipe started from, as name@number.
            connection: the platform; by default the one in use.
            options: `types`, `like`, `missing`, `dates` and `zone`, as `import_file` takes them.

        Raises:
            InvalidArgument: a column holds values of several types, of one that a dataset does not have, or values that
                do not fit the types; a name is there twice.
        """
        connection = connection or current()
        content = io.BytesIO()
        pq.write_table(to_table(frame), content, compression="zstd")
        size = content.tell()
        content.seek(0)
        header = build(
            data_pb2.ImportHeader,
            dataset=name,
            format=data_pb2.FILE_FORMAT_PARQUET,
            request_id=names.request_id(),
            label=label,
            source="DataFrame",
            recipe=recipe,
            parent=parent,
            options=frame_options(options, connection),
        )
        return cls._import(header, content, size, connection)

    @classmethod
    def get(cls, ref: str, *, connection: Connection | None = None) -> "Dataset":
        """Return a version by `name@number`, or the newest by `name`.

        Raises:
            NotFound: there is none.
        """
        connection = connection or current()
        return cls(connection, connection.data.GetDatasetVersion(build(data_pb2.GetDatasetVersionRequest, ref=ref)))

    @classmethod
    def list(cls, *, connection: Connection | None = None) -> pd.DataFrame:
        """Return one row a dataset: name, latest_version, create_time."""
        connection = connection or current()
        rows = []
        token = ""
        while True:
            page = connection.data.ListDatasets(data_pb2.ListDatasetsRequest(page_token=token))
            rows += [(item.name, item.latest_version, item.create_time.ToDatetime()) for item in page.datasets]
            token = page.next_page_token
            if not token:
                return pd.DataFrame(rows, columns=["name", "latest_version", "create_time"])

    @property
    def ref(self) -> str:
        """The version as name@number."""
        return f"{self.message.dataset}@{self.message.number}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.message.columns)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the import decided and you may want otherwise, such as columns that were kept as text."""
        return tuple(self.message.notes)

    @property
    def create_time(self) -> datetime:
        """When the version was created, UTC."""
        return self.message.create_time.ToDatetime()

    def transform(
        self, *recipe: data_pb2.Step, name: str | None = None, test_name: str | None = None
    ) -> "tuple[Dataset, ...]":
        """Apply steps on the platform; return one new version, or two where the last step splits.

        Args:
            recipe: steps, as `lepton.steps` makes them.
            name: the new dataset's id; by default this one's with `-clean` (or `-train`) behind.
            test_name: the id for the second part of a split; by default this one's with `-test` behind.

        Raises:
            WrongType: an argument is no step.
            InvalidArgument: a step cannot be applied, or `test_name` is given without a split.
        """
        given = [step for item in recipe for step in as_list(item, "recipe", (str, data_pb2.Step))]
        for step in given:
            if not isinstance(step, data_pb2.Step):
                raise errors.WrongType(
                    f"transform takes steps, such as lepton.steps.drop_missing(), got a {type(step).__name__}",
                    reason="BAD_ARGUMENT",
                )
        recipe = tuple(given)
        splits = bool(recipe) and recipe[-1].HasField("split")
        if test_name and not splits:
            raise errors.InvalidArgument("test_name is of a split: add steps.split(0.2)", reason="BAD_ARGUMENT")
        request = build(
            data_pb2.TransformDatasetRequest,
            source=self.ref,
            recipe=data_pb2.Recipe(steps=recipe),
            dataset=name or names.to_id(self.message.dataset[:56] + ("-train" if splits else "-clean")),
            test_dataset=(test_name or names.to_id(self.message.dataset[:56] + "-test")) if splits else "",
            request_id=names.request_id(),
        )
        answer = self.connection.data.TransformDataset(request, timeout=3600)
        return tuple(Dataset(self.connection, version) for version in answer.versions)

    def windows(
        self,
        order: str,
        channels: str | Iterable[str],
        length: int,
        *,
        horizon: int = 0,
        target: str = "",
        series: str = "",
        min_length: int = 0,
        stride: int = 1,
        name: str | None = None,
    ) -> "Dataset":
        """Make windows of series on the platform: a row each, for RNN.

        Args:
            order: as the others that follow but for the name, see `steps.windows`.
            channels: the numeric columns whose values become lists.
            length: most steps of a window.
            horizon: steps to forecast.
            target: the column to forecast, or the label's.
            series: the column that tells series apart.
            min_length: least steps of a window.
            stride: steps from one window to the next.
            name: the new dataset's id; by default this one's with `-windows` behind.
        """
        step = steps.windows(
            order,
            channels,
            length,
            horizon=horizon,
            target=target,
            series=series,
            min_length=min_length,
            stride=stride,
        )
        (made,) = self.transform(step, name=name or names.to_id(self.message.dataset[:55] + "-windows"))
        return made

    def to_arrow(self, columns: str | Iterable[str] = (), *, types: Mapping[str, str] | None = None) -> pa.Table:
        """Return the rows as an Arrow table.

        Args:
            columns: one name or several; none for all.
            types: Arrow type name by column to read it as, such as {"zip": "string"}: the text of the imported file.

        Raises:
            InvalidArgument: COLUMN_TYPE_MISMATCH: values do not fit the types; the message names every such column.
        """
        request = data_pb2.ReadDatasetRequest(ref=self.ref, columns=to_names(columns), types=types)
        answers = self.connection.data.ReadDataset(request)
        with pa.ipc.open_stream(pa.PythonFile(_Chunks(answer.arrow for answer in answers), mode="r")) as reader:
            return reader.read_all()

    def to_pandas(self, columns: Iterable[str] = ()) -> pd.DataFrame:
        """Return the rows as a DataFrame, of one column, some or all; whole numbers with missing ones are Int64."""
        return to_frame(self.to_arrow(columns))

    def head(self, rows: int = 10) -> pd.DataFrame:
        """Return the first rows (at most 1,000)."""
        request = build(data_pb2.PreviewDatasetRequest, ref=self.ref, rows=rows)
        answer = self.connection.data.PreviewDataset(request)
        with pa.ipc.open_stream(answer.arrow) as reader:
            return to_frame(reader.read_all())

    def profile(self) -> pd.DataFrame:
        """Return what each column holds: missing, distinct, minimum, mean, median, maximum, most frequent value."""
        answer = self.connection.data.GetDatasetProfile(data_pb2.GetDatasetProfileRequest(ref=self.ref))
        rows = [_profile_row(column) for column in answer.columns]
        return pd.DataFrame(rows).set_index("column")

    def delete(self, *, force: bool = False) -> tuple[str, ...]:
        """Delete this version; its number is never used again. Return what breaks by that: nothing, without force.

        Args:
            force: delete it although a queued or running job, or a deployment's tuning, uses it.

        Raises:
            FailedPrecondition: something uses it; the message names all of it.
            Unavailable: what uses it cannot be looked up now.
        """
        request = data_pb2.DeleteDatasetVersionRequest(ref=self.ref, request_id=names.request_id(), force=force)
        return describe_broken(self.connection.data.DeleteDatasetVersion(request))

    def __repr__(self) -> str:
        return f"Dataset({self.ref}, {self.message.rows:,} rows x {len(self.columns)} columns)"

    def _repr_html_(self) -> str:
        rows = [(column.name, column.arrow_type, "yes" if column.nullable else "") for column in self.message.columns]
        return html_table(repr(self), ("column", "type", "missing values"), rows)

    @classmethod
    def _import(
        cls, header: data_pb2.ImportHeader, file: BinaryIO, size_bytes: int, connection: Connection
    ) -> "Dataset":
        with progress.bar(f"importing {header.source}", size_bytes, "bytes") as advance:
            answer = connection.data.ImportDataset(_upload(header, file, advance))
        return cls(connection, answer.version)


def _upload(
    header: data_pb2.ImportHeader, file: BinaryIO, advance: progress.Advance
) -> Iterator[data_pb2.ImportDatasetRequest]:
    yield data_pb2.ImportDatasetRequest(header=header)
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        yield data_pb2.ImportDatasetRequest(chunk=chunk)
        advance(len(chunk))
    yield data_pb2.ImportDatasetRequest(end=data_pb2.ImportEnd(sha256=digest.hexdigest()))


def _profile_row(column: data_pb2.ColumnProfile) -> dict[str, object]:
    numeric = column.HasField("mean")
    return {
        "column": column.name,
        "missing": column.missing,
        "distinct": column.distinct,
        "minimum": column.minimum if numeric else None,
        "mean": column.mean if numeric else None,
        "median": column.quartiles[1] if len(column.quartiles) == 3 else None,
        "maximum": column.maximum if numeric else None,
        "most_frequent": column.top[0].value if column.top else None,
    }


class _Chunks(io.RawIOBase):
    """A readable file over streamed chunks, so that Arrow decodes while they arrive."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        taken, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        return taken
