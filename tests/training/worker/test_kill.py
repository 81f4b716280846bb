"""Workers and the service are killed in the middle of their work: nothing is lost, made twice or left behind."""

import asyncio
import os
import signal

import pytest

from lepton.v1 import events_pb2, registry_pb2
from servicekit.events import Event, connect
from tests.training.house import QUEUED, SUCCEEDED, House, WorkerProcess, is_running, until

# Some seconds: time enough to be killed.
LONG = {"solver": '"gradient_descent"', "epochs": "1000"}


async def test_killed_worker_leaves_no_child_and_its_job_succeeds_elsewhere_once(lapsing_house: House) -> None:
    async with lapsing_house.worker_process("w1") as worker:
        job = await lapsing_house.people.create(model="line", hyperparameters=LONG)
        first = await lapsing_house.people.until(job.name, lambda found: found.progress > 0.06)
        children = await _children(worker, 2)
        await worker.kill()
        await until(lambda: not any(map(is_running, children)), "children to follow their worker")
    async with lapsing_house.worker_process("w2"):
        done = await lapsing_house.people.ended(job.name)
    assert (done.state, done.worker, done.attempts) == (SUCCEEDED, "w2", 2), done
    assert done.epoch > first.epoch
    versions = await lapsing_house.versions("line")
    assert [version.state for version in versions].count(registry_pb2.VERSION_STATE_READY) == 1
    assert done.version == f"line@{versions[-1].number}"


async def test_worker_killed_after_it_registered_makes_no_second_version(busy_house: House) -> None:
    job = await busy_house.people.create(model="line")
    # What the first worker did before it died: everything but telling the training service.
    await busy_house.workers.start(job.name, 1, "dead")
    registrar = await busy_house.registry.worker()
    lineage = registry_pb2.Lineage(job=job.name, job_epoch=1)
    parity = registry_pb2.Parity(max_difference=0.0, tolerance=1e-5, rows=10)
    made = await registrar.register("line", lineage=lineage, parity=parity)
    assert made.state == registry_pb2.VERSION_STATE_READY, made
    async with busy_house.worker("w2"):
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.version, done.worker) == (SUCCEEDED, "line@1", "w2"), done
    assert len(await busy_house.versions("line")) == 1


@pytest.mark.slow
async def test_paused_worker_that_comes_back_cannot_end_what_was_given_to_another(lapsing_house: House) -> None:
    async with lapsing_house.worker_process("w1") as first:
        job = await lapsing_house.people.create(model="line", hyperparameters=LONG)
        await lapsing_house.people.until(job.name, lambda found: found.progress > 0.06)
        children = await _children(first, 2)
        for pid in (first.process.pid, *children):
            os.kill(pid, signal.SIGSTOP)
        async with lapsing_house.worker_process("w2"):
            taken = await lapsing_house.people.until(job.name, lambda found: found.worker == "w2")
            # The first's lease lapsed; it wakes up and finds out.
            for pid in (first.process.pid, *children):
                os.kill(pid, signal.SIGCONT)
            done = await lapsing_house.people.ended(job.name)
    assert (done.state, done.worker, done.epoch) == (SUCCEEDED, "w2", taken.epoch), done
    versions = await lapsing_house.versions("line")
    assert [version.state for version in versions].count(registry_pb2.VERSION_STATE_READY) == 1
    assert (await lapsing_house.developer.get(done.version)).lineage.job_epoch == taken.epoch


async def test_worker_that_is_asked_to_stop_gives_its_job_back(busy_house: House) -> None:
    async with busy_house.worker_process("w1") as worker:
        job = await busy_house.people.create(model="line", hyperparameters=LONG)
        await busy_house.people.until(job.name, lambda found: found.progress > 0.06)
        children = await _children(worker, 2)
        assert await worker.terminate() == 0
    given_back = await busy_house.people.get(job.name)
    assert (given_back.state, given_back.worker, given_back.attempts) == (QUEUED, "", 0)
    assert not any(map(is_running, children))
    async with busy_house.worker("w2"):
        done = await busy_house.people.ended(job.name)
    assert (done.state, done.worker, done.attempts) == (SUCCEEDED, "w2", 1), done


async def test_job_outlives_nats_and_its_end_is_told(busy_house: House) -> None:
    async with busy_house.worker():
        job = await busy_house.people.create(model="line", hyperparameters=LONG)
        await busy_house.people.until(job.name, lambda found: found.progress > 0.06)
        busy_house.nats.kill()
        done = await busy_house.people.ended(job.name)
        busy_house.nats.start()
        # Whoever comes next is not kept waiting.
        after = await busy_house.people.ended((await busy_house.people.create()).name)
    assert (done.state, done.attempts, after.state) == (SUCCEEDED, 1, SUCCEEDED)


async def test_service_killed_as_it_answered_keeps_the_job_and_tells_of_it_once(house: House) -> None:
    told: list[str] = []

    async def keep(event: Event) -> None:
        told.append(event.parse(events_pb2.JobQueued).job.name)

    # With NATS away the fact cannot leave before the kill.
    house.nats.kill()
    async with house.service_process() as service:
        job = await service.people.create(request_id="r-1")
        await service.kill()
    house.nats.start()
    async with house.service_process() as service, connect(house.process_settings("data"), "listener") as nats:
        following = asyncio.create_task(nats.follow("listener", ["training.job.queued"], keep))
        assert await service.people.get(job.name) == job
        assert await service.people.create(request_id="r-1") == job
        await until(lambda: job.name in told, "the fact")
        following.cancel()
    assert told == [job.name]


async def _children(worker: WorkerProcess, count: int) -> list[int]:
    """Return a worker's children: one with a job, one on standby."""
    await until(lambda: len(worker.children()) == count, "children")
    return worker.children()
