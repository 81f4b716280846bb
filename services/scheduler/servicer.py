"""The scheduler's RPCs: convert, call, convert."""

from collections.abc import Awaitable, Callable

from lepton.v1 import scheduler_pb2 as pb
from lepton.v1 import scheduler_pb2_grpc
from servicekit.auth import ALL_WORKSPACES, current_identity
from servicekit.paging import Page
from servicekit.rpc import Context
from servicekit.state import State
from services.scheduler.adapters.repository import SqlRepository
from services.scheduler.convert import (
    job_to_proto,
    kind_from_proto,
    replica_to_proto,
    resources_from_proto,
    unplaced_to_proto,
    worker_to_proto,
)
from services.scheduler.domain.cluster import JobPlacement, ReplicaPlacement, Worker
from services.scheduler.domain.scheduler import Scheduler


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Serves lepton.v1.SchedulerService.

    Args:
        scheduler: the scheduler at work.
        state: its database, for lists and repeated requests.
        clock: seconds since 1970.
    """

    def __init__(self, scheduler: Scheduler, state: State[SqlRepository], clock: Callable[[], float]) -> None:
        self._scheduler = scheduler
        self._state = state
        self._clock = clock

    async def RegisterWorker(self, request: pb.RegisterWorkerRequest, context: Context) -> pb.RegisterWorkerResponse:
        """A worker announces itself and gets its lease."""
        kind, capacity = kind_from_proto(request.kind), resources_from_proto(request.capacity)
        made = await self._scheduler.register(request.worker, kind, capacity, request.address)
        return pb.RegisterWorkerResponse(epoch=made.epoch, lease_seconds=self._scheduler.lease_seconds)

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Context) -> pb.RenewLeaseResponse:
        """A worker keeps its lease."""
        return pb.RenewLeaseResponse(lease_seconds=self._scheduler.renew(request.worker, request.epoch))

    async def DeregisterWorker(
        self, request: pb.DeregisterWorkerRequest, context: Context
    ) -> pb.DeregisterWorkerResponse:
        """A worker leaves."""
        await self._scheduler.deregister(request.worker, request.epoch)
        return pb.DeregisterWorkerResponse()

    async def GetWorker(self, request: pb.GetWorkerRequest, context: Context) -> pb.Worker:
        """Returns a worker."""
        async with self._state.reading() as repository:
            return self._to_proto(await repository.worker(request.name))

    async def ListWorkers(self, request: pb.ListWorkersRequest, context: Context) -> pb.ListWorkersResponse:
        """Lists workers."""
        async with self._state.reading() as repository:
            found, token = await repository.list_workers(Page(request.page_size, request.page_token))
        return pb.ListWorkersResponse(workers=[self._to_proto(worker) for worker in found], next_page_token=token)

    async def DrainWorker(self, request: pb.DrainWorkerRequest, context: Context) -> pb.Worker:
        """Moves a worker's work away and gives it no more."""
        now = self._clock()
        return await self._once(request, lambda repository: repository.set_draining(request.name, now))

    async def ResumeWorker(self, request: pb.ResumeWorkerRequest, context: Context) -> pb.Worker:
        """Lets a drained worker take work again."""
        return await self._once(request, lambda repository: repository.set_draining(request.name, None))

    async def ListPlacements(self, request: pb.ListPlacementsRequest, context: Context) -> pb.ListPlacementsResponse:
        """Lists placements of the caller's workspace."""
        workspace = current_identity().workspace
        page = Page(request.page_size, request.page_token)
        async with self._state.reading() as repository:
            found, token = await repository.list_placements(None if workspace == ALL_WORKSPACES else workspace, page)
        placements = [self._placement(item) for item in found]
        unplaced = [] if request.page_token else self._unplaced(workspace)
        return pb.ListPlacementsResponse(placements=placements, next_page_token=token, unplaced=unplaced)

    async def _once(
        self,
        request: pb.DrainWorkerRequest | pb.ResumeWorkerRequest,
        act: Callable[[SqlRepository], Awaitable[Worker]],
    ) -> pb.Worker:
        async def fenced(repository: SqlRepository) -> pb.Worker:
            await repository.fence(self._scheduler.leader_epoch)
            return self._to_proto(await act(repository))

        return await self._scheduler.exclusively(lambda: self._state.once(request, pb.Worker, fenced))

    def _to_proto(self, worker: Worker) -> pb.Worker:
        view = self._scheduler.view
        return worker_to_proto(view.with_load(worker), view.allocated(worker.name), view.heard_at(worker.name))

    def _unplaced(self, workspace: str) -> list[pb.UnplacedWork]:
        return [
            unplaced_to_proto(item)
            for item in self._scheduler.unplaced()
            if workspace in (ALL_WORKSPACES, item.key.workspace)
        ]

    def _placement(self, placement: ReplicaPlacement | JobPlacement) -> pb.Placement:
        if isinstance(placement, JobPlacement):
            return pb.Placement(worker=placement.worker, job=job_to_proto(placement))
        replica = replica_to_proto(placement, self._scheduler.view.reported(placement))
        return pb.Placement(worker=placement.worker, replica=replica)
