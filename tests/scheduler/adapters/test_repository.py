"""The repository's contract, on SQLite and Postgres."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from sqlalchemy import select

from servicekit.database import open_database
from servicekit.errors import Aborted, FailedPrecondition, NotFound
from servicekit.migrations import drift
from servicekit.paging import Page
from servicekit.state import State
from services.scheduler.adapters.repository import SqlRepository
from services.scheduler.adapters.tables import kit, metadata
from services.scheduler.domain.assignment import Leadership
from services.scheduler.domain.cluster import (
    Cause,
    Move,
    PlaceJob,
    PlaceReplica,
    RemoveJob,
    RemoveReplica,
    Resources,
    WorkerKind,
    WorkerState,
)
from services.scheduler.domain.routing import Role, Routing
from tests.scheduler.clusters import NOW, deployment, job

MIGRATIONS = "services.scheduler.migrations"
Store = State[SqlRepository]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """A fresh database of the scheduler's, once of each kind."""
    async with open_database(database_url, MIGRATIONS) as database:
        yield State(database, kit, SqlRepository)


async def _register(store: Store, name: str = "t1", kind: WorkerKind = WorkerKind.TRAINING) -> int:
    async with store.writing() as repository:
        return (await repository.register(name, kind, Resources(4, 1 << 30), "host:1", NOW)).epoch


def test_the_migrations_make_the_tables(database_url: str) -> None:
    assert drift(database_url, MIGRATIONS, metadata) == []


async def test_leadership_goes_to_one_and_its_epoch_rises(store: Store) -> None:
    nobody = Leadership("", 0, 0)
    async with store.writing() as repository:
        assert await repository.take_leadership("a", nobody) == 1
    async with store.writing() as repository:
        assert await repository.take_leadership("b", nobody) is None
        seen = await repository.leadership()
        assert seen.holder == "a"
    async with store.writing() as repository:
        await repository.beat(1)
    async with store.writing() as repository:
        # The leader beat since: it lives.
        assert await repository.take_leadership("b", seen) is None
        assert await repository.take_leadership("b", await repository.leadership()) == 2
    with pytest.raises(Aborted):
        async with store.writing() as repository:
            await repository.beat(1)
    with pytest.raises(Aborted):
        async with store.writing() as repository:
            await repository.fence(1)
    async with store.writing() as repository:
        await repository.fence(2)
        assert await repository.take_leadership("b", await repository.leadership(), least_epoch=40) == 41


async def test_a_released_leadership_has_no_holder(store: Store) -> None:
    async with store.writing() as repository:
        await repository.take_leadership("a", Leadership("", 0, 0))
        await repository.release_leadership(1)
        assert (await repository.leadership()).holder == ""


async def test_lease_epochs_only_rise_even_when_a_worker_was_forgotten(store: Store) -> None:
    first = await _register(store)
    async with store.writing() as repository:
        await repository.deregister("t1", first)
    assert await _register(store) > first
    with pytest.raises(Aborted):
        async with store.writing() as repository:
            await repository.deregister("t1", first)


async def test_placements_come_back_as_they_were_written(store: Store) -> None:
    wanted = replace(deployment("credit", 2), routing=Routing(Role.CANARY, 5.0, 10.0, 0.01, 3))
    async with store.writing() as repository:
        await repository.apply([PlaceReplica("i1", wanted, Cause.WANTED), PlaceJob("t1", job("j"), Cause.WANTED)], NOW)
    async with store.reading() as repository:
        stored = await repository.load()
    (replica,), (placed,) = stored.replicas, stored.jobs
    assert (replica.worker, replica.key, replica.resources, replica.placed_at) == (
        "i1",
        wanted.key,
        wanted.resources,
        NOW,
    )
    assert replica.routing == wanted.routing
    assert (placed.worker, placed.key, placed.epoch) == ("t1", job("j").key, replica.epoch + 1)
    async with store.writing() as repository:
        moves: list[Move] = [
            RemoveReplica("i1", wanted.key, Cause.UNWANTED),
            RemoveJob("t1", placed.key, Cause.UNWANTED),
        ]
        await repository.apply(moves, NOW)
        stored = await repository.load()
    assert not stored.replicas and not stored.jobs


async def test_a_replica_that_changes_in_place_keeps_its_epoch(store: Store) -> None:
    wanted = deployment("credit")
    async with store.writing() as repository:
        await repository.apply([PlaceReplica("i1", wanted, Cause.WANTED)], NOW)
        (before,) = (await repository.load()).replicas
        await repository.apply([PlaceReplica("i1", replace(wanted, aliases=("champion",)), Cause.CHANGED)], NOW + 1)
        (after,) = (await repository.load()).replicas
    assert after == replace(before, aliases=("champion",))


async def test_epochs_of_a_job_rise_over_moves_registrations_and_what_its_owner_has_seen(store: Store) -> None:
    from dataclasses import replace

    seen = []

    async def note() -> None:
        async with store.reading() as repository:
            seen.append((await repository.load()).jobs[0].epoch)

    async with store.writing() as repository:
        await repository.apply([PlaceJob("t1", job("j"), Cause.WANTED)], NOW)
    await note()
    await _register(store)
    await note()
    async with store.writing() as repository:
        moves: list[Move] = [
            RemoveJob("t1", job("j").key, Cause.WORKER_LOST),
            PlaceJob("t2", replace(job("j"), epoch=100), Cause.WANTED),
        ]
        await repository.apply(moves, NOW)
    await note()
    await _register(store, "t2")
    await note()
    assert seen == sorted(set(seen))
    assert seen[2] == 101


async def test_a_loss_is_told_once_and_only_of_the_lease_that_lapsed(store: Store) -> None:
    old = await _register(store)
    epoch = await _register(store)
    for lapsed in (old, epoch, epoch):
        async with store.writing() as repository:
            await repository.lose("t1", lapsed)
    async with store.reading() as repository:
        assert (await repository.worker("t1")).state is WorkerState.LOST
    async with store.database.reading() as connection:
        rows = (await connection.execute(select(kit.outbox.c.subject).order_by(kit.outbox.c.sequence))).scalars()
        assert list(rows) == ["scheduler.worker.joined"] * 2 + ["scheduler.worker.lost"]


async def test_draining_keeps_its_beginning_and_ends(store: Store) -> None:
    epoch = await _register(store)
    async with store.writing() as repository:
        assert (await repository.set_draining("t1", NOW)).state is WorkerState.DRAINING
        assert (await repository.set_draining("t1", NOW + 5)).drained_at == NOW
        resumed = await repository.set_draining("t1", None)
        assert (resumed.state, resumed.drained_at) == (WorkerState.ACTIVE, None)
        await repository.lose("t1", epoch)
        with pytest.raises(FailedPrecondition):
            await repository.set_draining("t1", NOW)
        with pytest.raises(NotFound):
            await repository.set_draining("nobody", NOW)


async def test_lists_have_pages(store: Store) -> None:
    for name in ("b", "a", "c"):
        await _register(store, name)
    async with store.writing() as repository:
        moves = [
            PlaceJob(worker, job(name, workspace=workspace), Cause.WANTED)
            for worker, name, workspace in (("b", "j2", "x"), ("b", "j1", "x"), ("a", "j3", "x"), ("a", "j4", "y"))
        ]
        await repository.apply(moves, NOW)
    async with store.reading() as repository:
        first, token = await repository.list_workers(Page(2))
        rest, end = await repository.list_workers(Page(2, token))
        mine, _ = await repository.list_placements("x", Page())
        everything, _ = await repository.list_placements(None, Page())
    assert [w.name for w in first + rest] == ["a", "b", "c"]
    assert end == ""
    assert [p.key.job for p in mine if hasattr(p.key, "job")] == ["j3", "j1", "j2"]
    assert len(everything) == 4


async def test_lost_workers_are_forgotten_in_the_end(store: Store) -> None:
    epoch = await _register(store)
    await _register(store, "alive")
    async with store.writing() as repository:
        await repository.lose("t1", epoch)
        await repository.forget_lost(NOW + 1)
        assert set((await repository.load()).workers) == {"alive"}
