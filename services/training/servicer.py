"""The training service's RPCs: from proto, call, to proto."""

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lepton.v1 import training_pb2 as pb
from lepton.v1 import training_pb2_grpc
from servicekit.auth import ALL_WORKSPACES, Role, current_identity
from servicekit.errors import FailedPrecondition, InvalidArgument, NotFound
from servicekit.paging import Page
from servicekit.rpc import Context
from servicekit.state import State
from servicekit.telemetry import current_traceparent
from services.training.adapters.checkpoint_store import CheckpointStore
from services.training.adapters.report_store import ReportStore
from services.training.adapters.repository import SqlRepository
from services.training.adapters.spec_check import SpecCheck
from services.training.changes import Changes
from services.training.convert import (
    checkpoint_to_proto,
    family_to_proto,
    job_to_proto,
    metrics_from_proto,
    outcome_from_proto,
    seen_from_proto,
)
from services.training.domain import jobs
from services.training.domain.families.catalog import FAMILIES
from services.training.domain.jobs import Job, JobState


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    """Serves lepton.v1.TrainingService.

    Args:
        state: the database.
        specs: checks what jobs are asked.
        checkpoints: where jobs' checkpoints lie.
        reports: where jobs' reports lie.
    """

    def __init__(
        self, state: State[SqlRepository], specs: SpecCheck, checkpoints: CheckpointStore, reports: ReportStore
    ) -> None:
        self._state = state
        self._checkpoints = checkpoints
        self._reports = reports
        self._specs = specs
        self._changes = Changes()

    async def CreateJob(self, request: pb.CreateJobRequest, context: Context) -> pb.Job:
        """Queue a job."""
        # Before the neighbours are asked: to a repeat they might say something else by now.
        if known := await self._state.answered(request, pb.Job):
            return known
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
            study=spec.study,
            traceparent=current_traceparent(),
        )

        async def act(repository: SqlRepository) -> pb.Job:
            await repository.add(job)
            return _to_proto(job)

        answer = await self._state.once(request, pb.Job, act)
        await self._check_base_stays(answer, spec)
        return answer

    async def _check_base_stays(self, job: pb.Job, spec: pb.JobSpec) -> None:
        """Check that the version a new job begins from was not deleted at the same time; else cancel the job.

        The registry marks a version before it looks for jobs, and a job is kept before the mark is looked for: of two
        calls at once at least one sees the other.

        Raises:
            FailedPrecondition: the version is being deleted, or gone.
        """
        try:
            await self._specs.check_base_stays(spec)
        except (FailedPrecondition, NotFound) as error:
            async with self._changing(job.name) as change:
                change.after = jobs.cancel(change.before, datetime.now(UTC))
            raise FailedPrecondition(
                f"{error.message}: it was deleted at the same time", reason="VERSION_BEING_DELETED"
            ) from error

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.Job:
        """Return a job."""
        async with self._state.reading() as repository:
            return _to_proto(await repository.find(current_identity().workspace, request.name))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """Return a page of jobs; of all workspaces for a service that asks so."""
        identity = current_identity()
        sees_all = identity.role is Role.SERVICE and identity.workspace == ALL_WORKSPACES
        page = Page(request.page_size, request.page_token, request.filter, request.order_by)
        async with self._state.reading() as repository:
            found, token = await repository.list_jobs(None if sees_all else identity.workspace, page)
        return pb.ListJobsResponse(jobs=[_to_proto(job) for job in found], next_page_token=token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.Job:
        """Ask a job to stop."""
        workspace = current_identity().workspace

        async def act(repository: SqlRepository) -> pb.Job:
            before = await repository.find(workspace, request.name)
            after = jobs.cancel(before, datetime.now(UTC))
            await repository.save(before, after)
            return _to_proto(after)

        answer = await self._state.once(request, pb.Job, act)
        self._changes.tell(workspace, request.name)
        return answer

    async def RetryJob(self, request: pb.RetryJobRequest, context: Context) -> pb.Job:
        """Queue a failed job again."""
        workspace = current_identity().workspace

        async def act(repository: SqlRepository) -> pb.Job:
            before = await repository.find(workspace, request.name)
            after = jobs.retry(before)
            await repository.save(before, after)
            return _to_proto(after)

        answer = await self._state.once(request, pb.Job, act)
        self._changes.tell(workspace, request.name)
        return answer

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[pb.WatchJobResponse]:
        """Stream a job's updates until it ends."""
        workspace = current_identity().workspace
        sequence = request.after_sequence
        with self._changes.watching(workspace, request.name) as watcher:
            while True:
                watcher.look()
                async with self._state.reading() as repository:
                    job = await repository.find(workspace, request.name)
                    contents = await repository.updates_after(workspace, request.name, sequence)
                for content in contents:
                    update = pb.WatchJobResponse.FromString(content)
                    sequence = update.sequence
                    yield update
                if job.state.is_end and sequence >= job.sequence:
                    return
                if not contents:
                    await watcher.wait()

    async def ListFamilies(self, request: pb.ListFamiliesRequest, context: Context) -> pb.ListFamiliesResponse:
        """Return the families."""
        return pb.ListFamiliesResponse(families=[family_to_proto(family) for family in FAMILIES.values()])

    async def StartJob(self, request: pb.StartJobRequest, context: Context) -> pb.Job:
        """Give a job to a worker."""
        now = datetime.now(UTC)
        async with self._changing(request.name) as change:
            change.after = jobs.start(change.before, request.worker, request.epoch, now)
        return _to_proto(change.after)

    async def ReportJob(self, request: pb.ReportJobRequest, context: Context) -> pb.ReportJobResponse:
        """Keep a worker's report."""
        progress, now = (request.progress, request.message), datetime.now(UTC)
        async with self._changing(request.name) as change:
            change.metrics, change.step = metrics_from_proto(list(request.metrics)), request.step
            told = (*progress, change.metrics, now, seen_from_proto(request))
            change.after = jobs.report(change.before, request.worker, request.epoch, *told)
        return pb.ReportJobResponse(cancel_requested=change.after.cancel_requested)

    async def FinishJob(self, request: pb.FinishJobRequest, context: Context) -> pb.Job:
        """Keep a job's end."""
        outcome, now = outcome_from_proto(request), datetime.now(UTC)
        async with self._changing(request.name) as change:
            change.metrics = metrics_from_proto(list(request.evaluation.metrics))
            change.after = jobs.finish(change.before, request.worker, request.epoch, outcome, now)
        return _to_proto(change.after)

    async def SaveCheckpoint(
        self, request_iterator: AsyncIterator[pb.SaveCheckpointRequest], context: Context
    ) -> pb.Checkpoint:
        """Keep a job's checkpoint in place of the one before."""
        header, workspace = await _header(request_iterator), current_identity().workspace
        async with self._state.reading() as repository:
            # Before its bytes are taken; what counts is the claim when they are here.
            jobs.check_claim(await repository.find(workspace, header.name), header.worker, header.epoch)
        stored = await self._checkpoints.put(workspace, header.sha256, _chunks(request_iterator))
        kept, now = (stored.name, stored.sha256, stored.size_bytes), datetime.now(UTC)
        async with self._changing(header.name) as change:
            change.after = jobs.keep_checkpoint(change.before, header.worker, header.epoch, *kept, now)
        return checkpoint_to_proto(change.after, now)

    async def LoadCheckpoint(
        self, request: pb.LoadCheckpointRequest, context: Context
    ) -> AsyncIterator[pb.LoadCheckpointResponse]:
        """Stream a job's latest checkpoint."""
        async with self._state.reading() as repository:
            job = await repository.find(current_identity().workspace, request.name)
        if job.checkpoint_object:
            async for chunk in self._checkpoints.get(job):
                yield pb.LoadCheckpointResponse(chunk=chunk)

    async def GetReport(self, request: pb.GetReportRequest, context: Context) -> pb.Report:
        """Return a job's report."""
        async with self._state.reading() as repository:
            job = await repository.find(current_identity().workspace, request.name)
        jobs.check_report(job)
        return pb.Report(content=await self._reports.get(job))

    async def SaveReport(self, request: pb.SaveReportRequest, context: Context) -> pb.SaveReportResponse:
        """Keep a job's report in place of the one before."""
        workspace = current_identity().workspace
        async with self._state.reading() as repository:
            jobs.check_claim(await repository.find(workspace, request.name), request.worker, request.epoch)
        stored = await self._reports.put(workspace, request.content)
        async with self._changing(request.name) as change:
            kept = (stored.name, stored.sha256)
            change.after = jobs.keep_report(change.before, request.worker, request.epoch, *kept)
        return pb.SaveReportResponse()

    @contextlib.asynccontextmanager
    async def _changing(self, name: str) -> AsyncIterator["_Change"]:
        """Change a job in one transaction, and tell its watchers."""
        workspace = current_identity().workspace
        async with self._state.writing() as repository:
            job = await repository.find(workspace, name)
            change = _Change(job, job)
            yield change
            await repository.save(change.before, change.after, change.metrics, change.step)
        if change.after != change.before:
            self._changes.tell(workspace, name)
        if (old := change.before.checkpoint_object) and old != change.after.checkpoint_object:
            await self._checkpoints.remove(workspace, old)
        if (old := change.before.report_object) and old != change.after.report_object:
            await self._reports.remove(workspace, old)


@dataclass
class _Change:
    """A job as it was found and as it is to be, with the metrics and step of the update between."""

    before: Job
    after: Job
    metrics: dict[str, float] = field(default_factory=dict)
    step: int = 0


async def _header(requests: AsyncIterator[pb.SaveCheckpointRequest]) -> pb.SaveCheckpointHeader:
    async for request in requests:
        if request.HasField("header"):
            return request.header
        break
    raise InvalidArgument("a checkpoint begins with a header", reason="BAD_STREAM")


async def _chunks(requests: AsyncIterator[pb.SaveCheckpointRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.HasField("header"):
            raise InvalidArgument("a checkpoint has one header, at its beginning", reason="BAD_STREAM")
        yield request.chunk


def _to_proto(job: Job) -> pb.Job:
    return job_to_proto(job, with_workspace=current_identity().role is Role.SERVICE)
