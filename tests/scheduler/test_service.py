"""The service over TLS and real NATS: workers, people and owners around it."""

import asyncio

import grpc
import pytest

from lepton.v1 import common_pb2, events_pb2, scheduler_pb2
from servicekit.errors import Aborted
from tests.scheduler.neighbours import House

# A lease that a test waits for: long beside the pauses of a busy machine, of which renewals come every 0.2 s.
LAPSING = 3.0


async def test_a_queued_job_reaches_a_worker_by_its_event_alone(house: House) -> None:
    async with house.scheduler(resync_seconds=3600) as scheduling, scheduling.worker("t1") as worker:
        queued: set[str] = set()
        for index in range(5):
            await house.queue(f"job-{index}", cores=0.1)
            queued.add(f"job-{index}")
            await worker.until_jobs(queued)
        assert house.owners.asked == {"*"}


async def test_an_ended_job_leaves_the_assignment(house: House) -> None:
    async with house.scheduler(resync_seconds=3600) as scheduling, scheduling.worker("t1") as worker:
        await house.queue("a")
        await worker.until_jobs({"a"})
        await house.end("a")
        await worker.until_jobs(set())


async def test_a_job_whose_event_was_missed_is_found_by_the_next_list(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("t1") as worker:
        job = await house.queue("seen")
        unseen = house.owners.jobs["unseen"] = type(job)()
        unseen.CopyFrom(job)
        unseen.name = "unseen"
        await worker.until_jobs({"seen", "unseen"})


async def test_a_dead_workers_job_moves_with_a_higher_epoch(house: House) -> None:
    async with (
        house.scheduler(lease_seconds=LAPSING) as scheduling,
        scheduling.worker("t1") as first,
    ):
        await house.queue("j")
        await first.until_jobs({"j"})
        before = (await first.assignment()).jobs[0].epoch
        async with scheduling.worker("t2") as second:
            first.die()
            await second.until_jobs({"j"})
            assert (await second.assignment()).jobs[0].epoch > before
            worker = await scheduling.public.GetWorker(
                scheduler_pb2.GetWorkerRequest(name="t1"), metadata=scheduling.token("viewer")
            )
            assert worker.state == scheduler_pb2.WORKER_STATE_LOST


async def test_a_lapsed_lease_is_refused_until_the_worker_registers_again(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("t1") as worker:
        stale = worker.epoch
        await worker.register()
        assert worker.epoch > stale
        with pytest.raises(Aborted) as caught:
            await scheduling.stub.RenewLease(scheduler_pb2.RenewLeaseRequest(worker="t1", epoch=stale))
        assert caught.value.reason == "LEASE_LOST"
        await scheduling.stub.RenewLease(scheduler_pb2.RenewLeaseRequest(worker="t1", epoch=worker.epoch))


async def test_reports_alone_keep_a_lease_and_their_end_ends_it(house: House) -> None:
    async with house.scheduler(lease_seconds=LAPSING) as scheduling, scheduling.worker("i1", "INFERENCE") as worker:
        worker.die()
        request, viewer = scheduler_pb2.GetWorkerRequest(name="i1"), scheduling.token("viewer")
        ends = asyncio.get_running_loop().time() + 1.3 * LAPSING
        while asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(0.2)
            await worker.report()
        seen = await scheduling.public.GetWorker(request, metadata=viewer)
        assert seen.state == scheduler_pb2.WORKER_STATE_ACTIVE
        async with asyncio.timeout(120):
            while seen.state != scheduler_pb2.WORKER_STATE_LOST:
                await asyncio.sleep(0.05)
                seen = await scheduling.public.GetWorker(request, metadata=viewer)


async def test_a_worker_that_registers_anew_gets_its_work_with_new_epochs(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("t1") as worker:
        await house.queue("j")
        await worker.until_jobs({"j"})
        before = await worker.assignment()
        await worker.register()
        async with asyncio.timeout(120):
            while (await worker.assignment()).worker_epoch != worker.epoch:
                await asyncio.sleep(0.01)
        after = await worker.assignment()
        assert {job.job for job in after.jobs} == {"j"}
        assert after.jobs[0].epoch > before.jobs[0].epoch


async def test_a_new_version_is_beside_the_old_one_until_it_serves(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("i1", "INFERENCE") as worker:
        await house.deploy("credit", 1)
        await worker.until_replicas({("credit", 1)})
        await worker.report()
        await house.deploy("credit", 2)
        await worker.until_replicas({("credit", 1), ("credit", 2)})
        await worker.report(loading=2)
        await asyncio.sleep(0.3)
        assert await worker.replicas() == {("credit", 1), ("credit", 2)}
        await worker.report()
        await worker.until_replicas({("credit", 2)})
        (replica,) = (await worker.assignment()).replicas
        assert (list(replica.aliases), replica.digest, replica.model) == (["champion"], "0" * 64, "credit")


async def test_a_joining_worker_gets_replicas_and_a_drained_one_keeps_them_until_others_serve(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("i1", "INFERENCE") as first:
        await house.deploy("credit")
        await first.until_replicas({("credit", 1)})
        await first.report()
        async with scheduling.worker("i2", "INFERENCE") as second:
            await second.until_replicas({("credit", 1)})
            drain = scheduler_pb2.DrainWorkerRequest(name="i1", request_id="d1")
            answer = await scheduling.public.DrainWorker(drain, metadata=scheduling.token("operator"))
            assert answer.state == scheduler_pb2.WORKER_STATE_DRAINING
            await asyncio.sleep(0.3)
            assert await first.replicas() == {("credit", 1)}
            assert (await first.assignment()).draining
            await second.report()
            await first.until_replicas(set())
            resume = scheduler_pb2.ResumeWorkerRequest(name="i1", request_id="r1")
            await scheduling.public.ResumeWorker(resume, metadata=scheduling.token("operator"))
            await first.until_replicas({("credit", 1)})
            # The same request again gets its first answer, and changes nothing.
            again = await scheduling.public.DrainWorker(drain, metadata=scheduling.token("operator"))
            assert again == answer
            await asyncio.sleep(0.2)
            assert not (await first.assignment()).draining


async def test_a_worker_that_leaves_is_forgotten_at_once(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("t1") as first, scheduling.worker("t2") as second:
        await house.queue("j")
        async with asyncio.timeout(120):
            while not await first.jobs() | await second.jobs():
                await asyncio.sleep(0.01)
        leaver, stayer = (first, second) if await first.jobs() else (second, first)
        leaver.die()
        request = scheduler_pb2.DeregisterWorkerRequest(worker=leaver.name, epoch=leaver.epoch)
        await scheduling.stub.DeregisterWorker(request)
        await stayer.until_jobs({"j"})
        async with asyncio.timeout(120):
            while await house.assignment(leaver.name) is not None:
                await asyncio.sleep(0.01)
        listed = await scheduling.public.ListWorkers(
            scheduler_pb2.ListWorkersRequest(), metadata=scheduling.token("viewer")
        )
        assert [worker.name for worker in listed.workers] == [stayer.name]


async def test_people_see_workers_with_load_and_their_own_workspaces_placements(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("i1", "INFERENCE") as worker:
        await house.deploy("mine")
        await house.deploy("theirs", workspace="other")
        await worker.until_replicas({("mine", 1), ("theirs", 1)})
        await worker.report(cpu=0.5)
        request = scheduler_pb2.ListPlacementsRequest()
        async with asyncio.timeout(120):
            while True:
                page = await scheduling.public.ListPlacements(request, metadata=scheduling.token("viewer"))
                (placement,) = page.placements
                if placement.replica.state == scheduler_pb2.REPLICA_STATE_READY:
                    break
                await asyncio.sleep(0.01)
        assert (placement.worker, placement.replica.deployment) == ("i1", "mine")
        assert placement.replica.provider == "CPUExecutionProvider"
        everything = await scheduling.stub.ListPlacements(request, metadata=(("lepton-workspace", "*"),))
        assert {p.replica.deployment for p in everything.placements} == {"mine", "theirs"}
        first = await scheduling.stub.ListPlacements(
            scheduler_pb2.ListPlacementsRequest(page_size=1), metadata=(("lepton-workspace", "*"),)
        )
        assert len(first.placements) == 1 and first.next_page_token
        seen = await scheduling.public.GetWorker(
            scheduler_pb2.GetWorkerRequest(name="i1"), metadata=scheduling.token("viewer")
        )
        assert seen.load.cpu_utilization == 0.5
        assert seen.allocated.cores == 1.0
        assert seen.report_time.seconds > 0


async def test_work_without_a_place_is_listed_with_the_reason(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("t1", cores=2) as worker:
        await house.queue("huge", cores=64)
        await house.queue("small", cores=1)
        await house.deploy("credit")
        await worker.until_jobs({"small"})
        request = scheduler_pb2.ListPlacementsRequest()
        async with asyncio.timeout(120):
            while True:
                page = await scheduling.public.ListPlacements(request, metadata=scheduling.token("viewer"))
                if len(page.unplaced) == 2:
                    break
                await asyncio.sleep(0.01)
        found = {item.job or item.deployment: item for item in page.unplaced}
        assert (found["huge"].reason, found["credit"].reason) == ("TOO_LARGE", "NO_WORKER")
        assert "64 cores" in found["huge"].message
        theirs = await scheduling.public.ListPlacements(request, metadata=scheduling.token("viewer", "other"))
        assert not theirs.unplaced and not theirs.placements


async def test_callers_need_the_right_role(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("t1"):
        drain = scheduler_pb2.DrainWorkerRequest(name="t1")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await scheduling.public.DrainWorker(drain, metadata=scheduling.token("developer"))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        register = scheduler_pb2.RegisterWorkerRequest(
            worker="evil", kind=scheduler_pb2.WORKER_KIND_TRAINING, capacity=common_pb2.Resources(cores=1)
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await scheduling.public.RegisterWorker(register, metadata=scheduling.token("admin"))
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await scheduling.public.ListWorkers(scheduler_pb2.ListWorkersRequest())
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        missing = scheduler_pb2.GetWorkerRequest(name="nobody")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await scheduling.public.GetWorker(missing, metadata=scheduling.token("viewer"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_facts_about_workers_and_placements_are_published(house: House) -> None:
    heard: list[tuple[str, str, bytes]] = []

    async def handler(event: object) -> None:
        from servicekit.events import Event

        assert isinstance(event, Event)
        heard.append((event.workspace, event.subject, event.payload))

    follower = asyncio.create_task(house.connection.follow("watching", ["scheduler.>"], handler))
    try:
        async with house.scheduler(lease_seconds=LAPSING) as scheduling, scheduling.worker("t1") as worker:
            await house.queue("j")
            await worker.until_jobs({"j"})
            worker.die()
            async with asyncio.timeout(120):
                while not any(subject == "scheduler.worker.lost" for _, subject, _ in heard):
                    await asyncio.sleep(0.02)
            epoch = worker.epoch
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
    assert {workspace for workspace, _, _ in heard} == {"platform"}
    joined = [events_pb2.WorkerJoined.FromString(p) for _, s, p in heard if s == "scheduler.worker.joined"]
    lost = [events_pb2.WorkerLost.FromString(p) for _, s, p in heard if s == "scheduler.worker.lost"]
    changed = [events_pb2.PlacementChanged.FromString(p) for _, s, p in heard if s == "scheduler.placement.changed"]
    assert joined == [events_pb2.WorkerJoined(worker="t1", epoch=epoch)]
    assert lost == [events_pb2.WorkerLost(worker="t1", epoch=epoch)]
    assert changed[0] == events_pb2.PlacementChanged(worker="t1", jobs=["default/j"])


async def test_with_nats_away_leases_go_on_and_the_bucket_catches_up(house: House) -> None:
    async with house.scheduler(lease_seconds=LAPSING) as scheduling, scheduling.worker("t1") as worker:
        await house.queue("before")
        await worker.until_jobs({"before"})
        house.nats.kill()
        job = house.owners.jobs["during"] = type(house.owners.jobs["before"])()
        job.CopyFrom(house.owners.jobs["before"])
        job.name = "during"
        # Longer than a lease and its grace: workers live by gRPC, not by NATS.
        await asyncio.sleep(LAPSING + 1.5)
        assert worker.errors == []
        seen = await scheduling.public.GetWorker(
            scheduler_pb2.GetWorkerRequest(name="t1"), metadata=scheduling.token("viewer")
        )
        assert seen.state == scheduler_pb2.WORKER_STATE_ACTIVE
        house.nats.start()
        await house.connection.wait_connected(120)
        await worker.until_jobs({"before", "during"})


async def test_owners_that_are_away_at_the_start_lose_nothing(house: House) -> None:
    async with house.scheduler() as scheduling, scheduling.worker("t1") as worker:
        await house.queue("j")
        await worker.until_jobs({"j"})
        before = await worker.assignment()
    house.owners.port = 1
    async with house.scheduler() as scheduling:
        await asyncio.sleep(0.7)
        after = await house.assignment("t1")
        assert after is not None
        assert (list(after.jobs), after.worker_epoch) == (list(before.jobs), before.worker_epoch)
        assert after.leader_epoch > before.leader_epoch
