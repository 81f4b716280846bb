"""Models, versions and aliases in SQL."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Table, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from lepton.v1 import events_pb2
from servicekit.errors import Aborted
from servicekit.paging import Page, next_token, page_query
from servicekit.state import Unit
from services.registry.adapters.tables import alias_moves, aliases, artifacts, job_epochs, models, versions
from services.registry.convert import (
    alias_to_proto,
    declaration_from_record,
    declaration_with_graph,
    version_to_proto,
)
from services.registry.domain.aliases import Alias, Move
from services.registry.domain.versions import Artifact, Declaration, Verdict, Version, VersionState, digest_of
from services.registry.ports import Listing


@dataclass(frozen=True)
class ModelRow:
    """A named series of versions."""

    name: str
    latest_version: int
    latest_ready_version: int
    create_time: datetime


class SqlRepository:
    """The repository port on one transaction.

    Args:
        unit: the transaction.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    async def begin_model(self, workspace: str, model: str) -> None:
        """Make a model if it is absent, and lock it."""
        # The row comes before its counter, as in every other change: two orders would be a deadlock.
        values = {"workspace": workspace, "name": model, "create_time": datetime.now(UTC)}
        await self._unit.execute(self._insert(models).values(values).on_conflict_do_nothing())
        await self.lock(workspace, model)

    async def lock(self, workspace: str, model: str) -> None:
        """Let nobody else change a model until the transaction ends; what is read from here on is settled."""
        # On SQLite nobody else writes during a transaction anyway.
        key = (models.c.workspace == workspace) & (models.c.name == model)
        await self._unit.execute(select(models.c.name).where(key).with_for_update())

    async def find_version(self, workspace: str, model: str, number: int) -> Version | None:
        """Return a version, or None."""
        found = await self._versions(_of(versions, workspace, model) & (versions.c.number == number))
        return found[0] if found else None

    async def newest_ready(self, workspace: str, model: str) -> Version | None:
        """Return a model's newest READY version, or None."""
        number = (
            select(func.max(versions.c.number))
            .where(_of(versions, workspace, model), versions.c.state == VersionState.READY.value)
            .scalar_subquery()
        )
        found = await self._versions(_of(versions, workspace, model) & (versions.c.number == number))
        return found[0] if found else None

    async def versions_of_job(self, workspace: str, job: str) -> list[Version]:
        """Return the versions that a job made."""
        return await self._versions((versions.c.workspace == workspace) & (versions.c.job == job))

    async def raise_job_epoch(self, workspace: str, job: str, epoch: int) -> int:
        """Keep the highest epoch seen of a job; return what it was before, 0 for none."""
        key = (job_epochs.c.workspace == workspace) & (job_epochs.c.job == job)
        first = self._insert(job_epochs).values(workspace=workspace, job=job, epoch=0)
        await self._unit.execute(first.on_conflict_do_nothing())
        query = select(job_epochs.c.epoch).where(key).with_for_update()
        before = int((await self._unit.execute(query)).scalar_one())
        if epoch > before:
            await self._unit.execute(update(job_epochs).where(key).values(epoch=epoch))
        return before

    async def add_version(self, workspace: str, model: str, declared: Declaration) -> Version:
        """Give a model, which is locked, its next number, in state PENDING."""
        now = datetime.now(UTC)
        number = await self._unit.next_number(f"versions/{workspace}/{model}")
        key = {"workspace": workspace, "model": model, "number": number}
        row = {
            **key,
            "state": VersionState.PENDING.value,
            "digest": digest_of(declared.artifacts),
            "job": declared.job,
            "record": declared.record,
            "error_reason": "",
            "error_message": "",
            "create_time": now,
        }
        await self._unit.execute(insert(versions).values(row))
        await self._unit.execute(insert(artifacts), [{**key, **vars(artifact)} for artifact in declared.artifacts])
        return Version(workspace, model, number, VersionState.PENDING, declared, "", "", now, None)

    async def set_artifact(self, version: Version, artifact: Artifact) -> str:
        """Keep where an artifact is stored; return the object that it replaces, or nothing."""
        key = _files_of(version) & (artifacts.c.name == artifact.name)
        replaced = (await self._unit.execute(select(artifacts.c.object_name).where(key))).scalar_one()
        await self._unit.execute(update(artifacts).where(key).values(object_name=artifact.object_name))
        return str(replaced)

    async def forget_objects(self, version: Version) -> None:
        """Forget where a version's artifacts are stored."""
        await self._unit.execute(update(artifacts).where(_files_of(version)).values(object_name=""))

    async def end_version(
        self,
        version: Version,
        state: VersionState,
        *,
        reason: str = "",
        message: str = "",
        verdict: Verdict | None = None,
    ) -> Version:
        """Move a version to its last state, publishing registry.version.ready where it is that; return it.

        Raises:
            Aborted: it changed since it was read.
        """
        now = datetime.now(UTC)
        declared = version.declared
        if verdict is not None:
            declared = declaration_with_graph(declared, verdict)
        ended = replace(
            version, state=state, declared=declared, error_reason=reason, error_message=message, end_time=now
        )
        key = _of(versions, version.workspace, version.model) & (versions.c.number == version.number)
        values = {
            "state": state.value,
            "record": declared.record,
            "error_reason": reason,
            "error_message": message,
            "end_time": now,
        }
        change = update(versions).where(key, versions.c.state == version.state.value).values(values)
        if (await self._unit.execute(change.returning(versions.c.number))).one_or_none() is None:
            raise Aborted(f"{version.ref} was changed by another call: read it again", reason="VERSION_CHANGED")
        if state is VersionState.READY:
            fact = events_pb2.VersionReady(version=version_to_proto(ended))
            await self._unit.publish(version.workspace, "registry.version.ready", fact, key=version.model)
        return ended

    async def mark_deleting(self, versions_of: Sequence[Version], until: datetime | None) -> None:
        """Have nothing new use some versions until a time; None lets everything use them again."""
        for version in versions_of:
            key = _of(versions, version.workspace, version.model) & (versions.c.number == version.number)
            await self._unit.execute(update(versions).where(key).values(deleting_until=until))

    async def all_versions(self, workspace: str, model: str) -> list[Version]:
        """Return a model's versions by number."""
        return await self._versions(_of(versions, workspace, model))

    async def remove_version(self, version: Version) -> None:
        """Delete a version."""
        for table in (artifacts, versions):
            key = _of(table, version.workspace, version.model) & (table.c.number == version.number)
            await self._unit.execute(delete(table).where(key))

    async def list_versions(self, workspace: str, model: str, page: Listing) -> tuple[list[Version], str]:
        """Return a page of a model's versions, newest first, and the token of the next."""
        wanted = Page(page.size, page.token, page.filter)
        query = page_query(
            select(versions).where(_of(versions, workspace, model)),
            wanted,
            filters={"state": versions.c.state, "digest": versions.c.digest},
            orders={"number": versions.c.number},
            default_order="number desc",
            tie=versions.c.number,
        )
        rows = (await self._unit.execute(query)).all()
        return await self._with_files(rows[: wanted.limit]), next_token(wanted, rows)

    async def find_model(self, workspace: str, name: str) -> ModelRow | None:
        """Return a model, or None."""
        query = _models().where(models.c.workspace == workspace, models.c.name == name)
        row = (await self._unit.execute(query)).one_or_none()
        return None if row is None else _model(row)

    async def list_models(self, workspace: str, page: Listing) -> tuple[list[ModelRow], str]:
        """Return a page of models and the token of the next."""
        wanted = Page(page.size, page.token, page.filter, page.order_by)
        query = page_query(
            _models().where(models.c.workspace == workspace),
            wanted,
            filters={"name": models.c.name},
            orders={"name": models.c.name, "create_time": models.c.create_time},
            default_order="name",
            tie=models.c.name,
        )
        rows = (await self._unit.execute(query)).all()
        return [_model(row) for row in rows[: wanted.limit]], next_token(wanted, rows)

    async def remove_model(self, workspace: str, name: str) -> list[str]:
        """Delete a model with its versions and aliases; return the objects that nothing needs any more."""
        query = select(artifacts.c.object_name).where(_of(artifacts, workspace, name))
        objects = [row.object_name for row in (await self._unit.execute(query)).all() if row.object_name]
        for table in (artifacts, versions, aliases):
            await self._unit.execute(delete(table).where(_of(table, workspace, name)))
        await self._unit.execute(delete(models).where(models.c.workspace == workspace, models.c.name == name))
        return objects

    async def find_alias(self, workspace: str, model: str, name: str) -> Alias | None:
        """Return an alias, or None."""
        query = select(aliases).where(_of(aliases, workspace, model), aliases.c.name == name)
        row = (await self._unit.execute(query)).one_or_none()
        return None if row is None else _alias(row)

    async def aliases_of(self, workspace: str, model: str) -> list[Alias]:
        """Return a model's aliases by name."""
        query = select(aliases).where(_of(aliases, workspace, model)).order_by(aliases.c.name)
        return [_alias(row) for row in (await self._unit.execute(query)).all()]

    async def moves_of(self, workspace: str, model: str, name: str) -> list[Move]:
        """Return an alias's moves, newest first."""
        found, _ = await self.list_moves(workspace, model, name, Page(size=1))
        return found

    async def list_moves(self, workspace: str, model: str, name: str, page: Listing) -> tuple[list[Move], str]:
        """Return a page of an alias's moves, newest first, and the token of the next."""
        wanted = Page(page.size, page.token)
        query = page_query(
            select(alias_moves).where(_of(alias_moves, workspace, model), alias_moves.c.name == name),
            wanted,
            filters={},
            orders={"sequence": alias_moves.c.sequence},
            default_order="sequence desc",
            tie=alias_moves.c.sequence,
        )
        rows = (await self._unit.execute(query)).all()
        found = [Move(row.from_number, row.to_number, row.subject, row.time) for row in rows[: wanted.limit]]
        return found, next_token(wanted, rows)

    async def move_alias(
        self, workspace: str, model: str, name: str, from_number: int, to_number: int, subject: str
    ) -> Alias:
        """Move, create or (to 0) delete an alias, with its history, publishing registry.alias.moved; return it."""
        now = datetime.now(UTC)
        alias = Alias(model, name, to_number, uuid.uuid4().hex, now)
        key = {"workspace": workspace, "model": model, "name": name}
        await self._unit.execute(delete(aliases).where(_of(aliases, workspace, model), aliases.c.name == name))
        if to_number:
            row = {**key, "number": to_number, "etag": alias.etag, "update_time": now}
            await self._unit.execute(insert(aliases).values(row))
        sequence = await self._unit.next_number(f"alias/{workspace}/{model}/{name}")
        move = {"from_number": from_number, "to_number": to_number, "subject": subject, "time": now}
        await self._unit.execute(insert(alias_moves).values(**key, sequence=sequence, **move))
        fact = events_pb2.AliasMoved(alias=alias_to_proto(alias), from_number=from_number)
        await self._unit.publish(workspace, "registry.alias.moved", fact, key=model)
        return alias

    async def object_names(self) -> list[str]:
        """Return the name of every object that a version needs."""
        rows = (await self._unit.execute(select(artifacts.c.object_name))).all()
        return [row.object_name for row in rows if row.object_name]

    async def stale_versions(self, before: datetime) -> list[Version]:
        """Return the versions that are PENDING since before a time."""
        is_stale = (versions.c.state == VersionState.PENDING.value) & (versions.c.create_time < before)
        return await self._versions(is_stale)

    def _insert(self, table: Table) -> Any:
        return (sqlite if self._unit.dialect_name == "sqlite" else postgresql).insert(table)

    async def _versions(self, condition: Any) -> list[Version]:
        query = select(versions).where(condition).order_by(versions.c.number)
        return await self._with_files((await self._unit.execute(query)).all())

    async def _with_files(self, rows: Sequence[Any]) -> list[Version]:
        keys = [(row.workspace, row.model, row.number) for row in rows]
        own = tuple_(artifacts.c.workspace, artifacts.c.model, artifacts.c.number)
        query = select(artifacts).where(own.in_(keys)).order_by(artifacts.c.name)
        files: dict[tuple[str, str, int], list[Artifact]] = {key: [] for key in keys}
        for item in (await self._unit.execute(query)).all() if keys else ():
            file = Artifact(item.name, item.sha256, item.size_bytes, item.object_name)
            files[item.workspace, item.model, item.number].append(file)
        return [_version(row, tuple(files[key])) for row, key in zip(rows, keys, strict=True)]


def _version(row: Any, files: tuple[Artifact, ...]) -> Version:
    return Version(
        row.workspace,
        row.model,
        row.number,
        VersionState(row.state),
        declaration_from_record(row.record, files),
        row.error_reason,
        row.error_message,
        row.create_time,
        row.end_time,
        row.deleting_until is not None and _utc(row.deleting_until) > datetime.now(UTC),
    )


def _utc(time: datetime) -> datetime:
    # SQLite forgets the zone; what it holds is UTC.
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _files_of(version: Version) -> Any:
    return _of(artifacts, version.workspace, version.model) & (artifacts.c.number == version.number)


def _of(table: Any, workspace: str, model: str) -> Any:
    return (table.c.workspace == workspace) & (table.c.model == model)


def _models() -> Any:
    own = (versions.c.workspace == models.c.workspace) & (versions.c.model == models.c.name)
    newest = select(func.max(versions.c.number)).where(own).scalar_subquery().label("latest")
    ready = (
        select(func.max(versions.c.number))
        .where(own, versions.c.state == VersionState.READY.value)
        .scalar_subquery()
        .label("latest_ready")
    )
    return select(models.c.name, models.c.create_time, newest, ready)


def _model(row: Any) -> ModelRow:
    return ModelRow(row.name, row.latest or 0, row.latest_ready or 0, row.create_time)


def _alias(row: Any) -> Alias:
    return Alias(row.model, row.name, row.number, row.etag, row.update_time)
