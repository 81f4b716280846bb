"""The training service's RPCs: from proto, call, to proto."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from lepton.v1 import training_pb2 as pb
from lepton.v1 import training_pb2_grpc
from servicekit.auth import ALL_WORKSPACES, Role, current_identity
from servicekit.paging import Page
from servicekit.rpc import Context
from servicekit.state import State
from servicekit.telemetry import current_traceparent
from services.training.adapters.repository import SqlRepository
from services.training.adapters.spec_check import SpecCheck
from services.training.convert import (
    family_to_proto,
    job_to_proto,
    metrics_from_proto,
    outcome_from_proto,
)
from services.training.domain import jobs
from services.training.domain.families.catalog import FAMILIES
from services.training.domain.jobs import Job, JobState

# Updates of another process's making, in a stack with several, are seen at this pace.
_LOOK_SECONDS = 2.0


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """Serves lepton.v1.TrainingService.

    Args:
        state: the database.
        specs: checks what jobs are asked.
    """

    def __init__(self, state: State[SqlRepository], specs: SpecCheck) -> None:
        self._state = state
        self._specs = specs
        self._moved = asyncio.Condition()

    async def CreateJob(self, request: pb.CreateJobRequest, context: Context) -> pb.Job:
        """Queue a job."""
        workspace = current_identity().workspace
        spec = await self._specs.resolve(request.spec)
        job = Job(
            workspace,
            f"job-{uuid.uuid4().hex[:12]}",
            spec.model,
            spec.SerializeToString(),
            JobState.QUEUED,
            datetime.now(UTC),
            sequence=1,
            traceparent=current_traceparent(),
        )

        async def act(repository: SqlRepository) -> pb.Job:
            await repository.add(job)
            return job_to_proto(job)

        return await self._state.once(request, pb.Job, act)

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.Job:
        """Return a job."""
        async with self._state.reading() as repository:
            return job_to_proto(await repository.find(current_identity().workspace, request.name))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """Return a page of jobs; of all workspaces for a service that asks so."""
        identity = current_identity()
        sees_all = identity.role is Role.SERVICE and identity.workspace == ALL_WORKSPACES
        page = Page(request.page_size, request.page_token, request.filter, request.order_by)
        async with self._state.reading() as repository:
            found, token = await repository.list_jobs(None if sees_all else identity.workspace, page)
        listed = [job_to_proto(job, with_workspace=identity.role is Role.SERVICE) for job in found]
        return pb.ListJobsResponse(jobs=listed, next_page_token=token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.Job:
        """Ask a job to stop."""
        workspace = current_identity().workspace

        async def act(repository: SqlRepository) -> pb.Job:
            before = await repository.find(workspace, request.name)
            after = jobs.cancel(before, datetime.now(UTC))
            await repository.save(before, after)
            return job_to_proto(after)

        answer = await self._state.once(request, pb.Job, act)
        await self._tell()
        return answer

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[pb.WatchJobResponse]:
        """Stream a job's updates until it ends."""
        workspace = current_identity().workspace
        sequence = request.after_sequence
        while True:
            async with self._state.reading() as repository:
                job = await repository.find(workspace, request.name)
                contents = await repository.updates_after(workspace, request.name, sequence)
            for content in contents:
                update = pb.WatchJobResponse.FromString(content)
                sequence = update.sequence
                yield update
            if job.state.is_end and sequence >= job.sequence:
                return
            await self._wait()

    async def ListFamilies(self, request: pb.ListFamiliesRequest, context: Context) -> pb.ListFamiliesResponse:
        """Return the families."""
        return pb.ListFamiliesResponse(families=[family_to_proto(family) for family in FAMILIES.values()])

    async def StartJob(self, request: pb.StartJobRequest, context: Context) -> pb.Job:
        """Give a job to a worker."""
        now = datetime.now(UTC)
        async with self._state.writing() as repository:
            before = await repository.find(current_identity().workspace, request.name)
            after = jobs.start(before, request.worker, request.epoch, now)
            await repository.save(before, after)
        await self._tell()
        return job_to_proto(after)

    async def ReportJob(self, request: pb.ReportJobRequest, context: Context) -> pb.ReportJobResponse:
        """Keep a worker's report."""
        metrics = metrics_from_proto(list(request.metrics))
        async with self._state.writing() as repository:
            before = await repository.find(current_identity().workspace, request.name)
            after = jobs.report(before, request.worker, request.epoch, request.progress, request.message, metrics)
            await repository.save(before, after, metrics, request.step)
        await self._tell()
        return pb.ReportJobResponse(cancel_requested=after.cancel_requested)

    async def FinishJob(self, request: pb.FinishJobRequest, context: Context) -> pb.Job:
        """Keep a job's end."""
        outcome = outcome_from_proto(request)
        async with self._state.writing() as repository:
            before = await repository.find(current_identity().workspace, request.name)
            after = jobs.finish(before, request.worker, request.epoch, outcome, datetime.now(UTC))
            metrics = metrics_from_proto(list(request.evaluation.metrics))
            await repository.save(before, after, metrics)
        await self._tell()
        return job_to_proto(after)

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_SECONDS), self._moved:
                await self._moved.wait()
        except TimeoutError:
            return
