"""What can be done with datasets: import, transform, look at, delete.

Objects come before rows: a version is visible only once its transaction commits, and what a failure leaves is deleted.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pyarrow as pa

from servicekit.errors import InvalidArgument, NotFound
from services.data.domain.profile import ColumnProfile
from services.data.domain.readers import read_file
from services.data.domain.transform import Transform
from services.data.domain.types import (
    Column,
    Content,
    Dataset,
    DatasetVersion,
    FileFormat,
    Provenance,
    Recipe,
    parse_ref,
)
from services.data.ports import OpenedTable, Repository, TableStore

Reading = Callable[[], AbstractAsyncContextManager[Repository]]


class Datasets:
    """The use cases.

    Args:
        tables: where rows lie.
        reading: opens a repository for reading.
        parallel: imports and transforms at a time; more wait.
        memory_limit: of one transform, such as 1GB.
    """

    def __init__(self, tables: TableStore, reading: Reading, *, parallel: int = 2, memory_limit: str = "1GB") -> None:
        self._tables = tables
        self._reading = reading
        self._heavy = asyncio.Semaphore(parallel)
        self._memory_limit = memory_limit

    async def import_file(
        self,
        workspace: str,
        chunks: AsyncIterator[bytes],
        expected_sha256: Callable[[], str],
        file_format: FileFormat,
        delimiter: str,
        label: str,
    ) -> Content:
        """Store an upload's rows.

        Args:
            workspace: whose they are.
            chunks: the file's bytes.
            expected_sha256: the digest that the client gave at the end; asked once the chunks are through.
            file_format: how to read it.
            delimiter: of a CSV file.
            label: must be one of the columns, or empty.

        Raises:
            InvalidArgument: the upload was cut off, or the file is broken.
        """
        upload, sha256 = await self._tables.spool(workspace, chunks)
        try:
            if expected_sha256() != sha256:
                raise InvalidArgument(
                    "the upload is not whole: its SHA-256 differs from the one given at the end; send it again",
                    reason="TRUNCATED_UPLOAD",
                )
            async with self._heavy:
                schema, batches = await asyncio.to_thread(read_file, upload.open, file_format, delimiter)
                if label and label not in schema.names:
                    raise InvalidArgument(
                        f"the label {label!r} is none of the columns {', '.join(schema.names[:50])}",
                        reason="UNKNOWN_COLUMN",
                    )
                return await self._tables.write(workspace, schema, batches)
        finally:
            await self._tables.forget_spool(upload)

    async def transform(self, source: DatasetVersion, recipe: Recipe) -> list[tuple[Content, Provenance]]:
        """Store what a recipe makes of a version: one table, or two where it splits.

        Raises:
            InvalidArgument: a step does not fit the table; the message names it by number.
        """
        table = await self._tables.open_table(source)
        transform = Transform(recipe, table.schema, self._memory_limit)
        made: list[Content] = []
        async with self._heavy:
            try:
                for part in range(transform.parts):
                    schema, batches = await asyncio.to_thread(transform.run, table.reader, part)
                    made.append(await self._tables.write(source.workspace, schema, batches))
            except BaseException:
                await self._tables.remove(source.workspace, made)
                raise
        label = source.provenance.label
        return [
            (
                content,
                Provenance(
                    label=label if label in {column.name for column in content.columns} else "",
                    recipe=recipe,
                    parent=source.ref,
                    source=source.provenance.source,
                ),
            )
            for content in made
        ]

    async def keep(
        self,
        commit: Callable[[], Awaitable[list[DatasetVersion]]],
        workspace: str,
        contents: list[Content],
    ) -> list[DatasetVersion]:
        """Commit versions of stored contents; contents that no version took (a repeat, a failure) are deleted."""
        kept: list[DatasetVersion] = []
        try:
            kept = await commit()
        finally:
            used = {version.content.table for version in kept}
            await self._tables.remove(workspace, [content for content in contents if content.table not in used])
        return kept

    async def version(self, workspace: str, ref: str) -> DatasetVersion:
        """Return the version that name@number, or a name alone for the newest, means.

        Raises:
            NotFound: there is none.
        """
        async with self._reading() as repository:
            return await find_version(repository, workspace, ref)

    async def rows(self, version: DatasetVersion) -> OpenedTable:
        """Open a version's rows."""
        return await self._tables.open_table(version)

    async def first_rows(self, version: DatasetVersion, count: int) -> pa.Table:
        """Return a version's first rows."""
        table = await self._tables.open_table(version)
        return await asyncio.to_thread(_head, table, count)

    async def profile(self, version: DatasetVersion) -> list[ColumnProfile]:
        """Return what a version's columns hold."""
        return await self._tables.profile(version)

    async def discard(self, versions: list[DatasetVersion]) -> None:
        """Delete what was stored of versions that were deleted."""
        for version in versions:
            await self._tables.remove(version.workspace, [version.content])


async def add_version(
    repository: Repository, workspace: str, dataset: str, content: Content, provenance: Provenance
) -> DatasetVersion:
    """Return the dataset's version with a content: the one that it has already, else a new one."""
    same = await repository.find_same(workspace, dataset, content.digest)
    return same or await repository.add_version(workspace, dataset, content, provenance)


async def find_version(repository: Repository, workspace: str, ref: str) -> DatasetVersion:
    """Return the version that a reference means.

    Raises:
        NotFound: there is none.
    """
    name, number = parse_ref(ref)
    version = await repository.find_version(workspace, name, number)
    if version is None:
        raise NotFound(f"no dataset version {ref!r}", reason="DATASET_VERSION_NOT_FOUND")
    return version


async def find_dataset(repository: Repository, workspace: str, name: str) -> Dataset:
    """Return a dataset.

    Raises:
        NotFound: there is none.
    """
    dataset = await repository.find_dataset(workspace, name)
    if dataset is None:
        raise NotFound(f"no dataset {name!r}", reason="DATASET_NOT_FOUND")
    return dataset


def check_columns(wanted: list[str], columns: tuple[Column, ...]) -> None:
    """Check that a table has some columns.

    Raises:
        InvalidArgument: it lacks one.
    """
    names = [column.name for column in columns]
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None:
        raise InvalidArgument(
            f"there is no column {unknown!r}: the table has {', '.join(names[:50])}", reason="UNKNOWN_COLUMN"
        )


def _head(table: OpenedTable, count: int) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    rows = 0
    reader = table.reader()
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        if rows >= count:
            break
    return pa.Table.from_batches(batches, reader.schema).slice(0, count)
