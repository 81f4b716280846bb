"""Datasets and versions in SQL."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, insert, select

from lepton.v1 import data_pb2, events_pb2
from servicekit.paging import Page, next_token, page_query
from servicekit.state import Unit
from services.data.adapters.tables import datasets, versions
from services.data.convert import version_from_proto, version_to_proto
from services.data.domain.types import Content, Dataset, DatasetVersion, Provenance
from services.data.ports import Listing


class SqlRepository:
    """The repository port on one transaction.

    Args:
        unit: the transaction.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    async def lock(self, workspace: str, dataset: str) -> None:
        """Let nobody else change a dataset until the transaction ends."""
        await self._unit.lock(f"datasets/{workspace}/{dataset}")

    async def find_version(self, workspace: str, dataset: str, number: int | None) -> DatasetVersion | None:
        """Return a version, the newest for None; None where there is none."""
        query = select(versions).where(versions.c.workspace == workspace, versions.c.dataset == dataset)
        if number is not None:
            query = query.where(versions.c.number == number)
        row = (await self._unit.execute(query.order_by(versions.c.number.desc()).limit(1))).one_or_none()
        return None if row is None else _version(row)

    async def add_version(
        self, workspace: str, dataset: str, content: Content, provenance: Provenance
    ) -> DatasetVersion:
        """Give a content the dataset's next number, publishing data.version.created."""
        now = datetime.now(UTC)
        if await self.find_dataset(workspace, dataset) is None:
            row = {"workspace": workspace, "name": dataset, "create_time": now}
            await self._unit.execute(insert(datasets).values(row))
        number = await self._unit.next_number(f"versions/{workspace}/{dataset}")
        version = DatasetVersion(workspace, dataset, number, content, provenance, now)
        message = version_to_proto(version)
        await self._unit.execute(
            insert(versions).values(
                workspace=workspace,
                dataset=dataset,
                number=number,
                digest=content.digest,
                rows=content.rows,
                size_bytes=content.size_bytes,
                description=message.SerializeToString(),
                table_object=content.table,
                profile_object=content.profile,
                create_time=now,
            )
        )
        fact = events_pb2.DatasetVersionCreated(version=message)
        await self._unit.publish(workspace, "data.version.created", fact, key=dataset)
        return version

    async def find_dataset(self, workspace: str, name: str) -> Dataset | None:
        """Return a dataset, or None."""
        query = _datasets().where(datasets.c.workspace == workspace, datasets.c.name == name)
        row = (await self._unit.execute(query)).one_or_none()
        return None if row is None else _dataset(row)

    async def list_datasets(self, workspace: str, page: Listing) -> tuple[list[Dataset], str]:
        """Return a page of datasets and the token of the next."""
        wanted = Page(page.size, page.token, page.filter, page.order_by)
        query = page_query(
            _datasets().where(datasets.c.workspace == workspace),
            wanted,
            filters={"name": datasets.c.name},
            orders={"name": datasets.c.name, "create_time": datasets.c.create_time},
            default_order="name",
            tie=datasets.c.name,
        )
        rows = (await self._unit.execute(query)).all()
        return [_dataset(row) for row in rows[: wanted.limit]], next_token(wanted, rows)

    async def list_versions(self, workspace: str, dataset: str, page: Listing) -> tuple[list[DatasetVersion], str]:
        """Return a page of a dataset's versions, newest first, and the token of the next."""
        wanted = Page(page.size, page.token)
        query = page_query(
            select(versions).where(versions.c.workspace == workspace, versions.c.dataset == dataset),
            wanted,
            filters={},
            orders={"number": versions.c.number},
            default_order="number desc",
            tie=versions.c.number,
        )
        rows = (await self._unit.execute(query)).all()
        return [_version(row) for row in rows[: wanted.limit]], next_token(wanted, rows)

    async def remove_version(self, version: DatasetVersion) -> None:
        """Delete a version, publishing data.version.deleted."""
        await self._unit.execute(
            delete(versions).where(
                versions.c.workspace == version.workspace,
                versions.c.dataset == version.dataset,
                versions.c.number == version.number,
            )
        )
        fact = events_pb2.DatasetVersionDeleted(dataset=version.dataset, number=version.number)
        await self._unit.publish(version.workspace, "data.version.deleted", fact, key=version.dataset)

    async def remove_dataset(self, workspace: str, name: str) -> list[DatasetVersion]:
        """Delete a dataset with its versions, publishing each; return the versions."""
        query = select(versions).where(versions.c.workspace == workspace, versions.c.dataset == name)
        removed = [_version(row) for row in (await self._unit.execute(query)).all()]
        for version in removed:
            await self.remove_version(version)
        await self._unit.execute(delete(datasets).where(datasets.c.workspace == workspace, datasets.c.name == name))
        return removed

    async def used_tables(self, tables: list[str]) -> set[str]:
        """Return which tables some version holds."""
        query = select(versions.c.table_object).where(versions.c.table_object.in_(tables))
        return set((await self._unit.execute(query)).scalars())

    async def object_names(self) -> list[str]:
        """Return the name of every object that a version needs."""
        rows = (await self._unit.execute(select(versions.c.table_object, versions.c.profile_object))).all()
        return [name for row in rows for name in row]


def _datasets() -> Any:
    newest = (
        select(func.max(versions.c.number))
        .where(versions.c.workspace == datasets.c.workspace, versions.c.dataset == datasets.c.name)
        .scalar_subquery()
        .label("latest_version")
    )
    return select(datasets.c.name, datasets.c.create_time, newest)


def _dataset(row: Any) -> Dataset:
    return Dataset(row.name, row.latest_version or 0, row.create_time)


def _version(row: Any) -> DatasetVersion:
    message = data_pb2.DatasetVersion.FromString(row.description)
    return version_from_proto(message, row.workspace, row.table_object, row.profile_object)
