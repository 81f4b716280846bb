"""Jobs in SQL."""

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, or_, select, update

from servicekit.errors import NotFound
from servicekit.paging import Page, next_token, page_query
from servicekit.state import Unit
from services.training.adapters.tables import jobs, updates
from services.training.convert import update_to_proto
from services.training.domain.jobs import Job, JobState
from services.training.events import PROGRESSED, fact_of, progress_fact
from services.training.ports import Listing

# A job may have many thousands: they are read in parts.
_MOST_UPDATES = 500


class SqlRepository:
    """The repository port on one transaction.

    Args:
        unit: the transaction.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    async def find(self, workspace: str, name: str) -> Job:
        """Return a job, locked for a writing transaction.

        Raises:
            NotFound: there is none.
        """
        query = select(jobs).where(jobs.c.workspace == workspace, jobs.c.name == name)
        row = (await self._unit.execute(self._unit.locked(query))).one_or_none()
        if row is None:
            raise NotFound(f"no job {name!r}", reason="JOB_NOT_FOUND")
        return _job(row)

    async def add(self, job: Job) -> None:
        """Keep a new job, publishing training.job.queued."""
        await self._unit.execute(insert(jobs).values(_row(job)))
        await self._add_update(job, {}, 0)
        await self._publish(job)

    async def save(self, before: Job, after: Job, metrics: dict[str, float] | None = None, step: int = 0) -> None:
        """Keep a job's change with its update, publishing it where the state is another one."""
        if after == before:
            return
        key = (jobs.c.workspace == after.workspace) & (jobs.c.name == after.name)
        await self._unit.execute(update(jobs).where(key).values(_row(after)))
        if after.sequence == before.sequence:
            return
        content = await self._add_update(after, metrics or {}, step)
        if after.state is not before.state or after.epoch != before.epoch:
            await self._publish(after)
        elif after.progress_time != before.progress_time:
            fact = progress_fact(after, content)
            await self._unit.publish(after.workspace, PROGRESSED, fact, key=after.name)

    async def list_jobs(self, workspace: str | None, page: Listing) -> tuple[list[Job], str]:
        """Return a page of jobs, of a workspace or all, and the token of the next."""
        wanted = Page(page.size, page.token, page.filter, page.order_by)
        query = select(jobs)
        if workspace is not None:
            query = query.where(jobs.c.workspace == workspace)
        query = page_query(
            query,
            wanted,
            filters={"state": jobs.c.state, "model": jobs.c.model, "study": jobs.c.study, "name": jobs.c.name},
            orders={"create_time": jobs.c.create_time},
            default_order="create_time desc",
            tie=jobs.c.name,
        )
        rows = (await self._unit.execute(query)).all()
        return [_job(row) for row in rows[: wanted.limit]], next_token(wanted, rows)

    async def updates_after(self, workspace: str, name: str, sequence: int) -> list[bytes]:
        """Return the first of a job's updates after a sequence number, serialised as the contract has them."""
        key = (updates.c.workspace == workspace) & (updates.c.job == name) & (updates.c.sequence > sequence)
        query = select(updates.c.content).where(key).order_by(updates.c.sequence).limit(_MOST_UPDATES)
        return [row.content for row in (await self._unit.execute(query)).all()]

    async def kept_objects(self) -> list[str]:
        """Return the name of every object that a job's checkpoint or report needs."""
        columns = (jobs.c.checkpoint_object, jobs.c.report_object)
        query = select(*columns).where(or_(*(column != "" for column in columns)))
        return [name for row in (await self._unit.execute(query)).all() for name in row if name]

    async def _add_update(self, job: Job, metrics: dict[str, float], step: int) -> Any:
        message = update_to_proto(job, metrics, step, datetime.now(UTC))
        row = {
            "workspace": job.workspace,
            "job": job.name,
            "sequence": job.sequence,
            "content": message.SerializeToString(),
        }
        await self._unit.execute(insert(updates).values(row))
        return message

    async def _publish(self, job: Job) -> None:
        subject, fact = fact_of(job)
        await self._unit.publish(job.workspace, subject, fact, key=job.name)


def _row(job: Job) -> dict[str, Any]:
    texts = {"metrics": json.dumps(job.metrics, sort_keys=True), "warnings": json.dumps(job.warnings)}
    return {**vars(job), "state": job.state.value, **texts}


def _job(row: Any) -> Job:
    values = {column.name: _utc(row._mapping[column.name]) for column in jobs.columns}
    texts = {"metrics": json.loads(row.metrics), "warnings": tuple(json.loads(row.warnings))}
    return Job(**{**values, "state": JobState(row.state), **texts})


def _utc(value: object) -> object:
    # SQLite forgets the zone; what it holds is UTC.
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
