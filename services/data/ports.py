"""What the data domain needs of the outside: a repository of versions, and a store of tables."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import BinaryIO, Protocol, TypeAlias

import pyarrow as pa

from services.data.domain.profile import ColumnProfile
from services.data.domain.types import Content, Dataset, DatasetVersion, Provenance
from services.data.domain.work import Stop

MakeRows: TypeAlias = Callable[[Stop], tuple[pa.Schema, Iterator[pa.RecordBatch]]]


class Listing(Protocol):
    """Which part of a list is wanted: see servicekit.paging.Page."""

    @property
    def size(self) -> int: ...
    @property
    def token(self) -> str: ...
    @property
    def filter(self) -> str: ...
    @property
    def order_by(self) -> str: ...


class Repository(Protocol):
    """Datasets and versions, within one transaction."""

    async def lock(self, workspace: str, dataset: str) -> None:
        """Let nobody else change a dataset until the transaction ends: before what a change depends on is read."""
        ...

    async def find_version(self, workspace: str, dataset: str, number: int | None) -> DatasetVersion | None:
        """Return a version, the newest for None; None where there is none."""
        ...

    async def add_version(
        self, workspace: str, dataset: str, content: Content, provenance: Provenance
    ) -> DatasetVersion:
        """Give a content the dataset's next number, publishing data.version.created."""
        ...

    async def find_dataset(self, workspace: str, name: str) -> Dataset | None:
        """Return a dataset, or None."""
        ...

    async def list_datasets(self, workspace: str, page: Listing) -> tuple[list[Dataset], str]:
        """Return a page of datasets and the token of the next."""
        ...

    async def list_versions(self, workspace: str, dataset: str, page: Listing) -> tuple[list[DatasetVersion], str]:
        """Return a page of a dataset's versions, newest first, and the token of the next."""
        ...

    async def remove_version(self, version: DatasetVersion) -> None:
        """Delete a version, publishing data.version.deleted."""
        ...

    async def remove_dataset(self, workspace: str, name: str) -> list[DatasetVersion]:
        """Delete a dataset with its versions, publishing each; return the versions."""
        ...

    async def object_names(self) -> list[str]:
        """Return the name of every object that a version needs."""
        ...

    async def used_tables(self, tables: list[str]) -> set[str]:
        """Return which tables some version holds."""
        ...


class Upload(Protocol):
    """An uploaded file, spooled encrypted."""

    @property
    def sha256(self) -> str:
        """The digest of its bytes, lower-case hex."""
        ...

    def open(self, stop: Stop) -> BinaryIO:
        """Open it from the start, seekable; reading raises Cancelled once told to stop. Blocks: use a thread."""
        ...


class TableStore(Protocol):
    """Encrypted tables and profiles."""

    async def spool(self, workspace: str, chunks: AsyncIterator[bytes]) -> Upload:
        """Keep an upload for reading; nothing is left where it fails."""
        ...

    async def forget_spool(self, upload: Upload) -> None:
        """Delete an upload."""
        ...

    async def write(self, workspace: str, make: MakeRows) -> Content:
        """Store rows as a table with its profile and digest; nothing is left where it fails.

        Args:
            workspace: whose they are.
            make: gives the schema and the rows; runs in a thread.

        Raises:
            InvalidArgument: there are no rows.
        """
        ...

    async def open_table(self, version: DatasetVersion) -> "OpenedTable":
        """Open a version's rows."""
        ...

    async def profile(self, version: DatasetVersion) -> list[ColumnProfile]:
        """Return a version's profile."""
        ...

    async def remove(self, workspace: str, contents: Iterable[Content]) -> None:
        """Delete what was stored of some versions."""
        ...


class ReadableTable(Protocol):
    """Rows, readable again and again. Blocks: use threads."""

    @property
    def schema(self) -> pa.Schema:
        """The columns that users see."""
        ...

    def batches(
        self, columns: list[str] | None = None, first_row: int = 0, most_rows: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """Read from a row on, some columns or all, always in the same batches; 0 most rows for all that follow."""
        ...


class OpenedTable(ReadableTable, Protocol):
    """A version's rows. Companions (see `original_texts`) are read only where they are named."""

    @property
    def stored_schema(self) -> pa.Schema:
        """The columns that users see, then the companions that hold their texts."""
        ...
