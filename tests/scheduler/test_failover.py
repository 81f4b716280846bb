"""Two schedulers on one database: one leads, the other takes over, and nothing moves."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from lepton.v1 import common_pb2, scheduler_pb2
from servicekit.errors import Aborted, Unavailable
from servicekit.events import Event
from services.scheduler.__main__ import running_scheduler
from services.scheduler.adapters.placements_bucket import PlacementsBucket
from services.scheduler.domain.assignment import Assignment
from services.scheduler.settings import SchedulerSettings
from tests.scheduler.neighbours import House, Scheduling


@contextlib.asynccontextmanager
async def _process(house: House, settings: SchedulerSettings) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a real `python -m services.scheduler`."""
    environment = {**os.environ}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if value is not None and name != "nats_password":
            environment[f"LEPTON_{name.upper()}"] = str(value)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.scheduler", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _content(assignment: scheduler_pb2.Assignment | None) -> tuple[object, ...]:
    assert assignment is not None
    return (assignment.worker_epoch, list(assignment.replicas), list(assignment.jobs), assignment.draining)


async def test_a_killed_scheduler_comes_back_with_the_same_assignments_and_every_event(house: House) -> None:
    facts: dict[str, list[str]] = {}

    async def note(event: Event) -> None:
        facts.setdefault(event.id, []).append(event.subject)

    follower = asyncio.create_task(house.connection.follow("watching", ["scheduler.>"], note))
    port, private_port = _free_ports()
    settings = house.settings(port=port, private_port=private_port, lease_seconds=3.0, grace_seconds=20.0)
    try:
        async with house.clients(private_port, port) as scheduling:
            async with _process(house, settings) as first:
                await scheduling.until_healthy()
                async with scheduling.worker("t1") as trainer, scheduling.worker("i1", "INFERENCE") as server:
                    await house.queue("j")
                    await house.deploy("credit")
                    await trainer.until_jobs({"j"})
                    await server.until_replicas({("credit", 1)})
                    await server.report()
                    before = [_content(await house.assignment(name)) for name in ("t1", "i1")]
                    leader = (await trainer.assignment()).leader_epoch
                    first.send_signal(signal.SIGKILL)
                    await first.wait()
                    await house.queue("while-dead", cores=0.5)
                    # Longer than a lease: the workers hold on, and the next start grants them grace.
                    await asyncio.sleep(3.5)
                    async with _process(house, settings):
                        await scheduling.until_healthy()
                        await trainer.until_jobs({"j", "while-dead"})
                        after = [_content(await house.assignment(name)) for name in ("t1", "i1")]
                        assert after[1] == before[1]
                        assert after[0][0] == before[0][0]
                        # The old job stayed as it was, its epoch, too.
                        jobs = {job.job: job.epoch for job in (await trainer.assignment()).jobs}
                        assert jobs["j"] == {job.job: job.epoch for job in before[0][2]}["j"]  # type: ignore[attr-defined]
                        assert jobs["while-dead"] > jobs["j"]
                        assert (await trainer.assignment()).leader_epoch > leader
                        # Past the lease and the grace, renewals have kept everybody.
                        await asyncio.sleep(1)
                        listed = await scheduling.public.ListWorkers(
                            scheduler_pb2.ListWorkersRequest(), metadata=scheduling.token("viewer")
                        )
                        assert {worker.state for worker in listed.workers} == {scheduler_pb2.WORKER_STATE_ACTIVE}
                        async with asyncio.timeout(120):
                            while len(facts) < 5:
                                await asyncio.sleep(0.05)
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
    subjects = sorted(subject for (subject, *_) in facts.values())
    assert subjects.count("scheduler.worker.joined") == 2
    assert subjects.count("scheduler.worker.lost") == 0
    assert subjects.count("scheduler.placement.changed") == 3


async def test_a_second_scheduler_stands_by_and_takes_over(house: House, database_url: str) -> None:
    # On Postgres the row that stands still decides, on SQLite the locked file.
    house.database_url = database_url
    settings = house.settings(grace_seconds=20.0, leadership_seconds=3.0)
    async with contextlib.AsyncExitStack() as stack:
        port, private_port = _free_ports()
        first_settings = settings.model_copy(update={"port": port, "private_port": private_port})
        scheduling = await stack.enter_async_context(house.clients(private_port, port))
        first = await stack.enter_async_context(_process(house, first_settings))
        await scheduling.until_healthy()
        worker = await stack.enter_async_context(scheduling.worker("t1"))
        await house.queue("j")
        await worker.until_jobs({"j"})
        before = await worker.assignment()

        server = await stack.enter_async_context(running_scheduler(settings))
        standby = await stack.enter_async_context(house.clients(server.private_port, server.port))
        with pytest.raises(Unavailable):
            await _register(standby, "t9")

        first.kill()
        await standby.until_healthy()
        worker.stub = standby.stub
        async with asyncio.timeout(120):
            while (await worker.assignment()).leader_epoch == before.leader_epoch:
                await asyncio.sleep(0.02)
        after = await worker.assignment()
        assert (after.worker_epoch, list(after.jobs)) == (before.worker_epoch, list(before.jobs))
        await house.queue("next", cores=0.5)
        await worker.until_jobs({"j", "next"})
        await standby.stub.RenewLease(scheduler_pb2.RenewLeaseRequest(worker="t1", epoch=worker.epoch))


async def _register(scheduling: Scheduling, name: str) -> None:
    await scheduling.stub.RegisterWorker(
        scheduler_pb2.RegisterWorkerRequest(
            worker=name,
            kind=scheduler_pb2.WORKER_KIND_TRAINING,
            capacity=common_pb2.Resources(cores=1),
        ),
        timeout=120,
    )


async def test_a_stopped_scheduler_hands_over_at_once(house: House) -> None:
    async with house.scheduler(leadership_seconds=3600) as scheduling, scheduling.worker("t1"):
        pass
    async with asyncio.timeout(120):
        async with house.scheduler(leadership_seconds=3600):
            pass


async def test_the_assignments_of_a_stale_leader_are_refused(house: House) -> None:
    bucket = PlacementsBucket(house.connection)
    late = PlacementsBucket(house.connection)
    await late.write(Assignment("w", 1, 1))
    await bucket.write(Assignment("w", 1, 2))
    with pytest.raises(Aborted) as caught:
        await late.write(Assignment("w", 1, 1, draining=True))
    assert caught.value.metadata == {"leader_epoch": "2"}
    # The later leader overwrites what an earlier one wrote before it knew.
    late.forget()
    await bucket.write(Assignment("w", 1, 3))
    there = await house.assignment("w")
    assert there is not None and there.leader_epoch == 3


async def test_a_removed_assignment_can_be_written_again(house: House) -> None:
    bucket = PlacementsBucket(house.connection)
    await bucket.write(Assignment("w", 1, 1))
    await bucket.remove("w")
    assert await house.assignment("w") is None
    await bucket.write(Assignment("w", 2, 1))
    there = await house.assignment("w")
    assert there is not None and there.worker_epoch == 2


async def test_a_database_younger_than_the_bucket_still_leads(house: House) -> None:
    await PlacementsBucket(house.connection).write(Assignment("t1", 5, 40))
    async with house.scheduler() as scheduling, scheduling.worker("t1") as worker:
        await house.queue("j")
        await worker.until_jobs({"j"})
        assert (await worker.assignment()).leader_epoch > 40
