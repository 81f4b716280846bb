"""The repository's contract, on SQLite and Postgres."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lepton.v1 import common_pb2, training_pb2
from servicekit.database import open_database
from servicekit.errors import NotFound
from servicekit.migrations import drift
from servicekit.paging import Page
from servicekit.state import State
from services.training.adapters.repository import SqlRepository
from services.training.adapters.tables import kit, metadata
from services.training.domain import jobs
from services.training.domain.jobs import Job, JobState, Outcome

MIGRATIONS = "services.training.migrations"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Store = State[SqlRepository]


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    async with open_database(database_url, MIGRATIONS) as database:
        yield State(database, kit, SqlRepository)


def _job(name: str, workspace: str = "default", minutes: int = 0) -> Job:
    created = NOW + timedelta(minutes=minutes)
    return Job(workspace, name, "model", b"", JobState.QUEUED, created, metrics={"loss": 0.5}, sequence=1)


async def _facts(store: Store) -> list[str]:
    async with store.database.reading() as connection:
        rows = (await connection.execute(kit.outbox.select().order_by(kit.outbox.c.sequence))).all()
    return [row.subject for row in rows]


def test_the_migrations_make_the_tables(database_url: str) -> None:
    assert drift(database_url, MIGRATIONS, metadata) == []


async def test_job_comes_back_as_it_was_kept(store: Store) -> None:
    job = replace(
        _job("job-1"),
        start_time=NOW,
        end_time=NOW,
        progress_time=NOW,
        evaluation=common_pb2.Evaluation(rows=3).SerializeToString(),
        epoch=1 << 40,
        usage=training_pb2.Usage(core_seconds=1.5).SerializeToString(),
        warnings=("class 'x' is rare", "column 'ü' is a copy"),
        report_object="object-1",
        report_sha256="0" * 64,
    )
    async with store.writing() as repository:
        await repository.add(job)
    async with store.reading() as repository:
        found = await repository.find("default", "job-1")
    assert found == job


async def test_what_a_job_takes_is_kept_without_an_update(store: Store) -> None:
    started = jobs.start(_job("job-1"), "w", 1, NOW)
    taking = jobs.report(started, "w", 1, 0.0, "started", {}, NOW, jobs.Seen(usage=b"\x10\x01"))
    async with store.writing() as repository:
        await repository.add(_job("job-1"))
        await repository.save(_job("job-1"), started)
        await repository.save(started, taking)
    async with store.reading() as repository:
        assert await repository.find("default", "job-1") == taking
        assert len(await repository.updates_after("default", "job-1", 0)) == 2


async def test_objects_of_checkpoints_and_reports_are_known(store: Store) -> None:
    async with store.writing() as repository:
        await repository.add(replace(_job("job-1"), checkpoint_object="a", report_object="b"))
        await repository.add(replace(_job("job-2"), report_object="c"))
        await repository.add(_job("job-3"))
    async with store.reading() as repository:
        assert sorted(await repository.kept_objects()) == ["a", "b", "c"]


async def test_job_of_another_workspace_is_not_found(store: Store) -> None:
    async with store.writing() as repository:
        await repository.add(_job("job-1"))
    async with store.reading() as repository:
        with pytest.raises(NotFound):
            await repository.find("other", "job-1")


async def test_each_change_is_an_update_and_each_state_a_fact(store: Store) -> None:
    queued = _job("job-1")
    started = jobs.start(queued, "w", 1, NOW)
    half = jobs.report(started, "w", 1, 0.55, "half", {"loss": 0.1}, NOW)
    done = jobs.finish(half, "w", 1, Outcome(JobState.SUCCEEDED, version="model@1"), NOW)
    async with store.writing() as repository:
        await repository.add(queued)
        await repository.save(queued, started)
        await repository.save(started, half, {"loss": 0.1}, 7)
        await repository.save(half, done)
        await repository.save(done, done)
        contents = await repository.updates_after("default", "job-1", 1)
    updates = [training_pb2.WatchJobResponse.FromString(content) for content in contents]
    assert [update.sequence for update in updates] == [2, 3, 4]
    assert (updates[1].step, updates[1].metrics[0].name) == (7, "loss")
    assert await _facts(store) == [
        "training.job.queued",
        "training.job.started",
        "training.job.progressed",
        "training.job.succeeded",
    ]


async def test_change_that_fails_leaves_no_fact(store: Store) -> None:
    with pytest.raises(RuntimeError):
        async with store.writing() as repository:
            await repository.add(_job("job-1"))
            raise RuntimeError
    assert await _facts(store) == []


async def test_lists_are_paged_newest_first_and_by_workspace(store: Store) -> None:
    async with store.writing() as repository:
        for number in range(5):
            await repository.add(_job(f"job-{number}", minutes=number))
        await repository.add(_job("job-x", workspace="other"))
    async with store.reading() as repository:
        first, token = await repository.list_jobs("default", Page(size=3))
        second, last = await repository.list_jobs("default", Page(size=3, token=token))
        everyone, _ = await repository.list_jobs(None, Page(filter='state = "QUEUED"', order_by="create_time"))
    assert [job.name for job in first + second] == [f"job-{number}" for number in (4, 3, 2, 1, 0)]
    assert last == ""
    assert len(everyone) == 6
