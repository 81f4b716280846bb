"""The scheduler and what every worker runs beside its work, together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from lepton.v1 import common_pb2, scheduler_pb2
from servicekit.worker import Holding, Membership, WorkerAgent
from tests.scheduler.neighbours import MIB, House, Scheduling


class _Worker:
    """A worker that says that what it is assigned is ready."""

    def __init__(self) -> None:
        self.assignments: list[scheduler_pb2.Assignment] = []
        self.held: tuple[scheduler_pb2.Replica, ...] = ()

    async def apply(self, assignment: scheduler_pb2.Assignment) -> None:
        self.assignments.append(assignment)
        held = []
        for replica in assignment.replicas:
            ready = scheduler_pb2.Replica()
            ready.CopyFrom(replica)
            ready.state = scheduler_pb2.REPLICA_STATE_READY
            held.append(ready)
        self.held = tuple(held)

    def holding(self) -> Holding:
        return Holding(replicas=self.held, in_flight=3)

    def numbers(self) -> list[int]:
        return [replica.number for replica in self.assignments[-1].replicas] if self.assignments else []


@contextlib.asynccontextmanager
async def _agent(house: House, scheduling: Scheduling, worker: _Worker, name: str) -> AsyncIterator[WorkerAgent]:
    capacity = common_pb2.Resources(cores=2, memory_bytes=1024 * MIB)
    membership = Membership(name, scheduler_pb2.WORKER_KIND_INFERENCE, capacity, "localhost:1")
    async with WorkerAgent(membership, scheduling.stub, house.connection, worker.apply, worker.holding) as agent:
        yield agent


async def _until_numbers(worker: _Worker, numbers: list[int]) -> None:
    async with asyncio.timeout(120):
        while worker.numbers() != numbers:
            await asyncio.sleep(0.01)


async def test_a_version_changes_and_a_worker_leaves_as_they_should(house: House) -> None:
    async with house.scheduler(lease_seconds=3) as scheduling:
        first, second = _Worker(), _Worker()
        async with _agent(house, scheduling, first, "i1") as agent:
            await house.deploy("credit", 1)
            await _until_numbers(first, [1])
            agent.changed()
            await house.deploy("credit", 2)
            await _until_numbers(first, [2])
            async with _agent(house, scheduling, second, "i2"):
                await _until_numbers(second, [2])
                await agent.announce_leave()
                await _until_numbers(first, [])
                assert first.assignments[-1].draining
        listed = await scheduling.public.ListWorkers(
            scheduler_pb2.ListWorkersRequest(), metadata=scheduling.token("viewer")
        )
        # Both said goodbye.
        assert list(listed.workers) == []


async def test_a_worker_that_lost_its_lease_takes_the_assignment_of_its_new_one(house: House) -> None:
    async with house.scheduler(lease_seconds=3) as scheduling:
        worker = _Worker()
        async with _agent(house, scheduling, worker, "i1"):
            await house.deploy("credit", 1)
            await _until_numbers(worker, [1])
            epoch = worker.assignments[-1].worker_epoch
            # Somebody else registers under its name: its own lease is void, and it registers again.
            await scheduling.stub.RegisterWorker(
                scheduler_pb2.RegisterWorkerRequest(
                    worker="i1",
                    kind=scheduler_pb2.WORKER_KIND_INFERENCE,
                    capacity=common_pb2.Resources(cores=2, memory_bytes=1024 * MIB),
                )
            )
            async with asyncio.timeout(120):
                while worker.assignments[-1].worker_epoch < epoch + 2:
                    await asyncio.sleep(0.01)
            assert worker.numbers() == [1]
            # In between it was never told to hold nothing.
            assert all(assignment.replicas for assignment in worker.assignments[1:])
