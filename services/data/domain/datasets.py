"""What can be done with datasets: import, transform, look at, delete.

Objects come before rows: a version is visible only once its transaction commits, and what a failure leaves is deleted.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa

from servicekit.errors import InvalidArgument, LeptonError, NotFound
from services.data.domain.import_options import ImportOptions, KnownColumn
from services.data.domain.original_texts import listed
from services.data.domain.profile import ColumnProfile
from services.data.domain.readers import ReadFile, read_file
from services.data.domain.transform import Transform
from services.data.domain.typed_reading import TypedTable
from services.data.domain.types import Column, Content, Dataset, DatasetVersion, Import, Provenance, Recipe, parse_ref
from services.data.domain.work import Stop, settled
from services.data.ports import OpenedTable, ReadableTable, Repository, TableStore, Upload

Reading = Callable[[], AbstractAsyncContextManager[Repository]]
_Answer = TypeVar("_Answer")


_MOST_NOTES = 100


class Datasets:
    """The use cases.

    Args:
        tables: where rows lie.
        reading: opens a repository for reading.
    """

    def __init__(self, tables: TableStore, reading: Reading) -> None:
        self._tables = tables
        self._reading = reading

    @contextlib.asynccontextmanager
    async def uploaded(
        self, workspace: str, chunks: AsyncIterator[bytes], expected_sha256: Callable[[], str]
    ) -> AsyncIterator[Upload]:
        """Keep an upload, encrypted, as long as it is read.

        Args:
            workspace: whose it is.
            chunks: its bytes.
            expected_sha256: the digest that the client gave at the end; asked once the chunks are through.

        Raises:
            InvalidArgument: it was cut off, or damaged on its way.
        """
        upload = await self._tables.spool(workspace, chunks)
        try:
            if expected_sha256() != upload.sha256:
                raise InvalidArgument(
                    "the upload is not whole: its SHA-256 differs from the one given at the end; send it again",
                    reason="TRUNCATED_UPLOAD",
                )
            yield upload
        finally:
            # Where the store is away for now, the next sweep deletes it.
            with contextlib.suppress(LeptonError):
                await self._tables.forget_spool(upload)

    async def import_file(self, workspace: str, upload: Upload, wanted: Import) -> tuple[Content, Provenance]:
        """Store an upload's rows; return them with where they came from and what was decided of them.

        Raises:
            InvalidArgument: the file is broken; the message says where.
            NotFound: there is no version that it is to be like.
        """
        given = wanted.options
        wanted = await self._with_known(workspace, wanted)
        found: list[ReadFile] = []

        def make(stop: Stop) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
            found.append(_read(upload, wanted, stop))
            return found[-1].schema, found[-1].batches

        content = await self._tables.write(workspace, make)
        notes = (*_notes_on_like(wanted.options, content), *found[-1].notes)[:_MOST_NOTES]
        return content, replace(wanted.provenance, notes=notes, missing=found[-1].missing, options=given)

    async def _with_known(self, workspace: str, wanted: Import) -> Import:
        """Return an import with the columns of the version that it is to be like, else of the dataset's newest."""
        options = wanted.options
        async with self._reading() as repository:
            if options.like:
                version: DatasetVersion | None = await find_version(repository, workspace, options.like)
            else:
                version = await repository.find_version(workspace, wanted.dataset, None)
        if version is None:
            return wanted
        columns = {column.name: KnownColumn(column.arrow_type, version.ref) for column in version.content.columns}
        columns = {name: column for name, column in columns.items() if name not in options.types}
        missing = {} if options.missing is not None else dict(version.provenance.missing)
        missing |= options.column_missing
        if not options.like and not options.writes_as(version.provenance.options):
            # Other options are a correction of what was read as text before.
            columns = {name: column for name, column in columns.items() if column.arrow_type != "string"}
        options = replace(options, known_missing=missing)
        options = replace(options, likes=columns) if options.like else replace(options, known=columns)
        return replace(wanted, options=options)

    async def transform(self, source: DatasetVersion, recipe: Recipe) -> list[tuple[Content, Provenance]]:
        """Store what a recipe makes of a version: one table, or two where it splits.

        Raises:
            InvalidArgument: a step does not fit the table; the message names it by number.
        """
        table = await self._tables.open_table(source)
        transform = Transform(recipe, table.stored_schema)
        made: list[Content] = []
        try:
            for part in range(transform.parts):
                make = _transforming(transform, table, part)
                made += [await self._tables.write(source.workspace, make)]
        except BaseException:
            await self._tables.remove(source.workspace, made)
            raise
        provenance = replace(
            source.provenance,
            label=transform.label_after(source.provenance.label),
            recipe=recipe,
            parent=source.ref,
            notes=(),
        )
        return [(content, provenance) for content in made]

    async def keep(
        self, workspace: str, contents: list[Content], commit: Callable[[], Coroutine[Any, Any, _Answer]]
    ) -> _Answer:
        """Commit versions of stored contents; contents that no version took (a repeat, a failure) are deleted.

        A caller who goes in the middle of the commit does not stop it: whether it happened must be known before
        anything is deleted.
        """
        committing = asyncio.ensure_future(commit())
        try:
            return await asyncio.shield(committing)
        finally:
            await settled(committing)
            # Where that fails, the next sweep does it.
            with contextlib.suppress(LeptonError):
                await self._forget_unused(workspace, contents)

    async def _forget_unused(self, workspace: str, contents: list[Content]) -> None:
        async with self._reading() as repository:
            used = await repository.used_tables([content.table for content in contents])
        await self._tables.remove(workspace, [content for content in contents if content.table not in used])

    async def version(self, workspace: str, ref: str) -> DatasetVersion:
        """Return the version that name@number, or a name alone for the newest, means.

        Raises:
            NotFound: there is none.
        """
        async with self._reading() as repository:
            return await find_version(repository, workspace, ref)

    async def typed_rows(
        self,
        version: DatasetVersion,
        types: Mapping[str, str],
        columns: list[str] | None = None,
        first_row: int = 0,
        most_rows: int = 0,
    ) -> ReadableTable:
        """Open a version's rows with columns as given types, checked for the rows that will be read.

        Args:
            version: whose rows.
            types: Arrow type name by column; the others are read as stored.
            columns: to be read; None for all.
            first_row: from 0.
            most_rows: 0 for all that follow.

        Raises:
            InvalidArgument: a column or type is unknown, or values do not fit: COLUMN_TYPE_MISMATCH.
        """
        table = await self._tables.open_table(version)
        if not types:
            return table
        typed = TypedTable(table, types)
        await asyncio.to_thread(typed.check, columns, first_row, most_rows)
        return typed

    async def first_rows(self, version: DatasetVersion, count: int) -> pa.Table:
        """Return a version's first rows."""
        table = await self._tables.open_table(version)
        return await asyncio.to_thread(_head, table, count)

    async def profile(self, version: DatasetVersion) -> list[ColumnProfile]:
        """Return what a version's columns hold."""
        return await self._tables.profile(version)

    async def discard(self, versions: list[DatasetVersion]) -> None:
        """Delete what was stored of versions that were deleted."""
        # They are gone for everybody already; where the store is away, the next sweep deletes their objects.
        with contextlib.suppress(LeptonError):
            for version in versions:
                await self._tables.remove(version.workspace, [version.content])


async def add_version(
    repository: Repository, workspace: str, dataset: str, content: Content, provenance: Provenance
) -> DatasetVersion:
    """Return the dataset's newest version where it is the same, else a new one.

    The same is: content, label, recipe and parent. An older version never counts, for the newest is what was made last.
    """
    await repository.lock(workspace, dataset)
    newest = await repository.find_version(workspace, dataset, None)
    if newest is not None and newest.content.digest == content.digest and _is_same_origin(newest, provenance):
        return newest
    return await repository.add_version(workspace, dataset, content, provenance)


def _is_same_origin(version: DatasetVersion, provenance: Provenance) -> bool:
    known = version.provenance
    return (known.label, known.recipe, known.parent) == (provenance.label, provenance.recipe, provenance.parent)


async def remove_version(repository: Repository, workspace: str, ref: str) -> DatasetVersion:
    """Delete the version that a reference means.

    Raises:
        NotFound: there is none.
    """
    await repository.lock(workspace, parse_ref(ref)[0])
    version = await find_version(repository, workspace, ref)
    await repository.remove_version(version)
    return version


async def remove_dataset(repository: Repository, workspace: str, name: str) -> list[DatasetVersion]:
    """Delete a dataset; return the versions that it had.

    Raises:
        NotFound: there is none.
    """
    await repository.lock(workspace, name)
    await find_dataset(repository, workspace, name)
    return await repository.remove_dataset(workspace, name)


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


def _notes_on_like(options: ImportOptions, content: Content) -> list[str]:
    lacking = sorted(set(options.likes) - {column.name for column in content.columns})
    if not lacking:
        return []
    origin = options.likes[lacking[0]].origin
    return [f"the file lacks columns that {origin} has: {', '.join(lacking[:20])}"]


def check_columns(wanted: list[str], columns: tuple[Column, ...]) -> None:
    """Check that a table has some columns.

    Raises:
        InvalidArgument: it lacks one.
    """
    names = [column.name for column in columns]
    known = set(names)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise InvalidArgument(
            f"there is no column {', '.join(map(repr, unknown[:20]))}: the table has {', '.join(names[:50])}",
            reason="UNKNOWN_COLUMN",
        )


def _read(upload: Upload, wanted: Import, stop: Stop) -> ReadFile:
    found = read_file(lambda: upload.open(stop), wanted.file_format, wanted.delimiter, wanted.encoding, wanted.options)
    label, names = wanted.provenance.label, listed(found.schema.names)
    if label and label not in names:
        raise InvalidArgument(
            f"the label {label!r} is none of the columns {', '.join(names[:50])}", reason="UNKNOWN_COLUMN"
        )
    return found


def _transforming(
    transform: Transform, table: OpenedTable, part: int
) -> Callable[[Stop], tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    names = table.stored_schema.names
    return lambda stop: (transform.schema, transform.run(lambda: stop.watched(table.batches(names)), part))


def _head(table: OpenedTable, count: int) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    rows = 0
    for batch in table.batches():
        batches.append(batch.slice(0, count - rows))
        rows += batches[-1].num_rows
        if rows == count:
            break
    return pa.Table.from_batches(batches, table.schema)
