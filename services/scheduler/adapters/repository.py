"""The scheduler's tables behind its repository port: the same SQL on SQLite and Postgres."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from servicekit.errors import Aborted, FailedPrecondition, NotFound
from servicekit.paging import Page, next_token, page_query
from servicekit.state import Unit
from services.scheduler import events
from services.scheduler.adapters.tables import kit, leadership, placements, workers
from services.scheduler.domain.assignment import Leadership, Stored
from services.scheduler.domain.cluster import (
    JobKey,
    JobPlacement,
    Move,
    PlaceJob,
    PlaceReplica,
    RemoveJob,
    RemoveReplica,
    ReplicaKey,
    ReplicaPlacement,
    Resources,
    WantedDeployment,
    WantedJob,
    Worker,
    WorkerKind,
    WorkerState,
)
from services.scheduler.domain.routing import Role, Routing

_LEADER = 1
_REPLICA = "replica"
_JOB = "job"


class SqlRepository:
    """The repository of one transaction.

    Args:
        unit: the open transaction.
    """

    def __init__(self, unit: Unit) -> None:
        self._unit = unit

    # Leadership.

    async def leadership(self) -> Leadership:
        """Return the leader's row; epoch 0 where there never was one."""
        row = (await self._unit.execute(select(leadership).where(leadership.c.id == _LEADER))).one_or_none()
        return Leadership(row.holder, row.epoch, row.beat) if row is not None else Leadership("", 0, 0)

    async def take_leadership(self, holder: str, seen: Leadership, least_epoch: int = 0) -> int | None:
        """Lead from now on, unless the row changed since it was seen; return the new epoch, or None."""
        epoch = max(seen.epoch, least_epoch) + 1
        if seen.epoch == 0:
            if (await self.leadership()).epoch != 0:
                return None
            await self._unit.execute(insert(leadership).values(id=_LEADER, holder=holder, epoch=epoch, beat=1))
            return epoch
        unchanged = (leadership.c.epoch == seen.epoch) & (leadership.c.beat == seen.beat)
        taken = update(leadership).where(leadership.c.id == _LEADER, unchanged)
        result = await self._unit.execute(taken.values(holder=holder, epoch=epoch, beat=seen.beat + 1))
        return epoch if result.rowcount == 1 else None

    async def beat(self, epoch: int) -> None:
        """Show that the leader lives."""
        held = update(leadership).where(leadership.c.id == _LEADER, leadership.c.epoch == epoch)
        result = await self._unit.execute(held.values(beat=leadership.c.beat + 1))
        if result.rowcount != 1:
            raise _not_leader(epoch)

    async def release_leadership(self, epoch: int) -> None:
        """Let another one lead at once."""
        held = update(leadership).where(leadership.c.id == _LEADER, leadership.c.epoch == epoch)
        await self._unit.execute(held.values(holder="", beat=leadership.c.beat + 1))

    async def fence(self, epoch: int) -> None:
        """Check that a leadership still holds, for the rest of this transaction."""
        # The row is locked on Postgres; SQLite has one writer anyway.
        query = select(leadership.c.epoch).where(leadership.c.id == _LEADER).with_for_update()
        if (await self._unit.execute(query)).scalar() != epoch:
            raise _not_leader(epoch)

    # Workers.

    async def load(self) -> Stored:
        """Return workers and placements."""
        found = (await self._unit.execute(select(workers).order_by(workers.c.name))).all()
        rows = (await self._unit.execute(select(placements).order_by(placements.c.epoch))).all()
        return Stored(
            {row.name: _worker(row) for row in found},
            tuple(_replica(row) for row in rows if row.kind == _REPLICA),
            tuple(_job(row) for row in rows if row.kind == _JOB),
        )

    async def register(self, worker: str, kind: WorkerKind, capacity: Resources, address: str, now: float) -> Worker:
        """Give a worker a lease epoch above any before, and its jobs new placement epochs."""
        epoch = await self._unit.next_number("lease")
        made = Worker(worker, kind, WorkerState.ACTIVE, capacity, epoch, address, now)
        await self._unit.execute(delete(workers).where(workers.c.name == worker))
        await self._unit.execute(insert(workers).values(_worker_values(made)))
        await self._unit.publish(
            events.WORKSPACE, events.WORKER_JOINED, events.worker_joined(worker, epoch), f"worker/{worker}"
        )
        # The process is new: whatever the old one still says of these jobs is stale.
        mine = (placements.c.worker == worker) & (placements.c.kind == _JOB)
        for row in (await self._unit.execute(select(placements).where(mine))).all():
            again = update(placements).where(placements.c.epoch == row.epoch)
            await self._unit.execute(again.values(epoch=await self._epoch_above(row.epoch)))
        return made

    async def lose(self, worker: str, epoch: int) -> None:
        """Mark a worker as lost, if its lease still has this epoch."""
        same = (workers.c.name == worker) & (workers.c.epoch == epoch) & (workers.c.state != WorkerState.LOST.value)
        result = await self._unit.execute(update(workers).where(same).values(state=WorkerState.LOST.value))
        if result.rowcount == 1:
            payload = events.worker_lost(worker, epoch)
            await self._unit.publish(events.WORKSPACE, events.WORKER_LOST, payload, f"worker/{worker}")

    async def deregister(self, worker: str, epoch: int) -> None:
        """Forget a worker and its placements."""
        same = (workers.c.name == worker) & (workers.c.epoch == epoch)
        result = await self._unit.execute(delete(workers).where(same))
        if result.rowcount != 1:
            raise Aborted(f"worker {worker!r} holds no lease of epoch {epoch}", reason="LEASE_LOST")
        removed = await self._unit.execute(delete(placements).where(placements.c.worker == worker))
        if removed.rowcount:
            await self._publish_change(worker)

    async def set_draining(self, worker: str, drained_at: float | None) -> Worker:
        """Begin (a time) or end (None) a worker's drain."""
        found = await self.worker(worker)
        if found.state is WorkerState.LOST:
            raise FailedPrecondition(f"worker {worker!r} is lost: it holds nothing", reason="WORKER_LOST")
        draining = drained_at is not None
        if (found.state is WorkerState.DRAINING) != draining:
            state = WorkerState.DRAINING if draining else WorkerState.ACTIVE
            changed = update(workers).where(workers.c.name == worker)
            await self._unit.execute(changed.values(state=state.value, drained_at=drained_at))
        return await self.worker(worker)

    async def worker(self, name: str) -> Worker:
        """Return a worker.

        Raises:
            NotFound: there is no such worker.
        """
        row = (await self._unit.execute(select(workers).where(workers.c.name == name))).one_or_none()
        if row is None:
            raise NotFound(f"no worker {name!r}: `lepton workers` lists them")
        return _worker(row)

    async def list_workers(self, page: Page) -> tuple[list[Worker], str]:
        """Return a page of workers, by name, and the next page's token."""
        query = page_query(
            select(workers),
            page,
            filters={},
            orders={"name": workers.c.name},
            default_order="name",
            tie=workers.c.name,
        )
        rows = (await self._unit.execute(query)).all()
        return [_worker(row) for row in rows[: page.limit]], next_token(page, rows)

    async def list_placements(
        self, workspace: str | None, page: Page
    ) -> tuple[list[ReplicaPlacement | JobPlacement], str]:
        """Return a page of a workspace's placements (None: of all), by worker and name, and the next page's token."""
        query = select(placements)
        if workspace is not None:
            query = query.where(placements.c.workspace == workspace)
        # A slash sorts before every character of an id but the hyphen: good enough to group by worker.
        order = placements.c.worker + "/" + placements.c.name
        query = page_query(
            query, page, filters={}, orders={"name": order}, default_order="name", tie=placements.c.epoch
        )
        rows = (await self._unit.execute(query)).all()
        found = [_replica(row) if row.kind == _REPLICA else _job(row) for row in rows[: page.limit]]
        return found, next_token(page, rows)

    async def forget_lost(self, joined_before: float) -> None:
        """Forget lost workers that registered long ago."""
        old = (workers.c.state == WorkerState.LOST.value) & (workers.c.joined_at < joined_before)
        await self._unit.execute(delete(workers).where(old))

    # Placements.

    async def apply(self, moves: Iterable[Move], now: float) -> None:
        """Write moves down, with new epochs for what is placed, and their events."""
        changed: dict[str, None] = {}
        for move in moves:
            changed[move.worker] = None
            match move:
                case PlaceReplica(worker, wanted, _):
                    await self._place_replica(worker, wanted, now)
                case PlaceJob(worker, wanted_job, _):
                    await self._place_job(worker, wanted_job, now)
                case RemoveReplica(worker, key, _):
                    await self._unit.execute(delete(placements).where(_is_replica(worker, key)))
                case RemoveJob(worker, job_key, _):
                    await self._unit.execute(delete(placements).where(_is_job(worker, job_key)))
        for worker in changed:
            await self._publish_change(worker)

    async def _place_replica(self, worker: str, wanted: WantedDeployment, now: float) -> None:
        declared = {
            **asdict(wanted.resources),
            "digest": wanted.digest,
            "aliases": list(wanted.aliases),
            "routing": _routing_values(wanted.routing),
        }
        known = update(placements).where(_is_replica(worker, wanted.key)).values(declared)
        if (await self._unit.execute(known)).rowcount:
            return
        key = wanted.key
        values = {
            "worker": worker,
            "kind": _REPLICA,
            "workspace": key.workspace,
            "name": key.deployment,
            "model": key.model,
            "number": key.number,
            "epoch": await self._unit.next_number("placement"),
            "placed_at": now,
            **declared,
        }
        await self._unit.execute(insert(placements).values(values))

    async def _place_job(self, worker: str, wanted: WantedJob, now: float) -> None:
        values = {
            "worker": worker,
            "kind": _JOB,
            "workspace": wanted.key.workspace,
            "name": wanted.key.job,
            "model": "",
            "number": 0,
            "digest": "",
            "aliases": [],
            "routing": {},
            "epoch": await self._epoch_above(wanted.epoch),
            "placed_at": now,
            **asdict(wanted.resources),
        }
        await self._unit.execute(insert(placements).values(values))

    async def _epoch_above(self, least: int) -> int:
        """Return the next placement epoch, above one that an owner has seen.

        One counter numbers all placements, so that a job's epochs rise without a row that outlives the job. It is
        behind only where this database is younger than the owner's.
        """
        epoch = await self._unit.next_number("placement")
        if epoch > least:
            return epoch
        epoch = least + 1
        raised = update(kit.counters).where(kit.counters.c.name == "placement")
        await self._unit.execute(raised.values(value=epoch))
        return epoch

    async def _publish_change(self, worker: str) -> None:
        query = select(placements).where(placements.c.worker == worker).order_by(placements.c.epoch)
        rows = (await self._unit.execute(query)).all()
        replicas = [_replica(row).key for row in rows if row.kind == _REPLICA]
        jobs = [_job(row).key for row in rows if row.kind == _JOB]
        payload = events.placement_changed(worker, replicas, jobs)
        await self._unit.publish(events.WORKSPACE, events.PLACEMENT_CHANGED, payload, f"placement/{worker}")


def _not_leader(epoch: int) -> Aborted:
    return Aborted(f"the leadership of epoch {epoch} has ended: another scheduler leads", reason="NOT_LEADER")


def _is_replica(worker: str, key: ReplicaKey) -> Any:
    return (
        (placements.c.worker == worker)
        & (placements.c.kind == _REPLICA)
        & (placements.c.workspace == key.workspace)
        & (placements.c.name == key.deployment)
        & (placements.c.model == key.model)
        & (placements.c.number == key.number)
    )


def _is_job(worker: str, key: JobKey) -> Any:
    return (
        (placements.c.worker == worker)
        & (placements.c.kind == _JOB)
        & (placements.c.workspace == key.workspace)
        & (placements.c.name == key.job)
    )


def _resources(row: Row[Any]) -> Resources:
    return Resources(row.cores, row.memory_bytes, row.gpus)


def _worker_values(worker: Worker) -> dict[str, object]:
    return {
        "name": worker.name,
        "kind": worker.kind.value,
        "state": worker.state.value,
        **asdict(worker.capacity),
        "epoch": worker.epoch,
        "address": worker.address,
        "joined_at": worker.joined_at,
        "drained_at": worker.drained_at,
    }


def _worker(row: Row[Any]) -> Worker:
    kind, state = WorkerKind(row.kind), WorkerState(row.state)
    return Worker(row.name, kind, state, _resources(row), row.epoch, row.address, row.joined_at, row.drained_at)


def _replica(row: Row[Any]) -> ReplicaPlacement:
    key = ReplicaKey(row.workspace, row.name, row.model, row.number)
    return ReplicaPlacement(
        row.worker,
        key,
        _resources(row),
        row.digest,
        tuple(row.aliases),
        row.epoch,
        row.placed_at,
        routing=_routing(row.routing),
    )


def _routing_values(routing: Routing) -> dict[str, object]:
    return {**asdict(routing), "role": routing.role.value} if routing != Routing() else {}


def _routing(values: dict[str, Any]) -> Routing:
    return Routing(**{**values, "role": Role(values["role"])}) if values else Routing()


def _job(row: Row[Any]) -> JobPlacement:
    return JobPlacement(row.worker, JobKey(row.workspace, row.name), _resources(row), row.epoch, row.placed_at)
