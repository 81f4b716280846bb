"""The training service, as its own workers see it."""

import hashlib
from collections.abc import AsyncIterator

import grpc

from lepton.v1 import training_pb2 as pb
from lepton.v1.training_pb2_grpc import TrainingServiceStub
from servicekit.auth import Identity, act_as

_CHUNK_BYTES = 1 << 20
_PAGE_JOBS = 1000


class TrainingClient:
    """Takes jobs and tells how they go, each in its own workspace.

    Args:
        channel: a channel of servicekit.rpc to the training service.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TrainingServiceStub(channel)

    async def create(self, workspace: str, request: pb.CreateJobRequest) -> pb.Job:
        """Queue a job; a repeat of its request_id gives the first."""
        with act_as(Identity.for_service(workspace, "training")):
            return await self._stub.CreateJob(request)

    async def get(self, workspace: str, job: str) -> pb.Job:
        """Return a job."""
        with act_as(Identity.for_service(workspace, "training")):
            return await self._stub.GetJob(pb.GetJobRequest(name=job))

    async def cancel(self, workspace: str, job: str) -> pb.Job:
        """Ask a job to stop; to ask again is harmless."""
        request = pb.CancelJobRequest(name=job, request_id=f"{job}-cancel")
        with act_as(Identity.for_service(workspace, "training")):
            return await self._stub.CancelJob(request)

    async def jobs_of(self, workspace: str, study: str) -> list[pb.Job]:
        """Return the jobs of a study, the oldest first."""
        found: list[pb.Job] = []
        request = pb.ListJobsRequest(page_size=_PAGE_JOBS, filter=f'study = "{study}"', order_by="create_time")
        with act_as(Identity.for_service(workspace, "training")):
            while True:
                page = await self._stub.ListJobs(request)
                found += page.jobs
                if not page.next_page_token:
                    return found
                request.page_token = page.next_page_token

    async def start(self, workspace: str, request: pb.StartJobRequest) -> pb.Job:
        """Take a job.

        Raises:
            Aborted: it was given to another worker.
            FailedPrecondition: it ended.
        """
        with act_as(Identity.for_service(workspace, "training")):
            return await self._stub.StartJob(request)

    async def report(self, workspace: str, request: pb.ReportJobRequest) -> bool:
        """Tell how far a job is; return whether it is to stop.

        Raises:
            Aborted: it was given to another worker.
        """
        with act_as(Identity.for_service(workspace, "training")):
            return (await self._stub.ReportJob(request)).cancel_requested

    async def save_checkpoint(self, workspace: str, claim: pb.SaveCheckpointHeader, content: bytes) -> None:
        """Keep a job's checkpoint in place of the one before.

        Args:
            workspace: the job's.
            claim: the job, its worker and epoch; the digest is filled in.
            content: the whole of it.

        Raises:
            Aborted: it was given to another worker.
            ResourceExhausted: there is no room.
        """
        header = pb.SaveCheckpointHeader(sha256=hashlib.sha256(content).hexdigest())
        header.MergeFrom(claim)
        with act_as(Identity.for_service(workspace, "training")):
            await self._stub.SaveCheckpoint(_parts(header, content))

    async def load_checkpoint(self, workspace: str, job: str) -> bytes:
        """Return a job's latest checkpoint; nothing where it has none.

        Raises:
            DataLoss: it was damaged.
        """
        with act_as(Identity.for_service(workspace, "training")):
            answers = self._stub.LoadCheckpoint(pb.LoadCheckpointRequest(name=job))
            return b"".join([answer.chunk async for answer in answers])

    async def save_report(self, workspace: str, request: pb.SaveReportRequest) -> None:
        """Keep a job's report in place of the one before.

        Raises:
            Aborted: it was given to another worker.
            ResourceExhausted: there is no room.
        """
        with act_as(Identity.for_service(workspace, "training")):
            await self._stub.SaveReport(request)

    async def finish(self, workspace: str, request: pb.FinishJobRequest) -> pb.Job:
        """Tell how a job ended.

        Raises:
            Aborted: it was given to another worker.
        """
        with act_as(Identity.for_service(workspace, "training")):
            return await self._stub.FinishJob(request)


async def _parts(header: pb.SaveCheckpointHeader, content: bytes) -> AsyncIterator[pb.SaveCheckpointRequest]:
    yield pb.SaveCheckpointRequest(header=header)
    for start in range(0, len(content), _CHUNK_BYTES):
        yield pb.SaveCheckpointRequest(chunk=content[start : start + _CHUNK_BYTES])
