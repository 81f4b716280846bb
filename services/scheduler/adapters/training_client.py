"""The training service, as the scheduler sees it: jobs that wait or run, of all workspaces."""

import grpc

from lepton.v1 import training_pb2, training_pb2_grpc
from servicekit.auth import ALL_WORKSPACES, Identity, act_as
from services.scheduler.convert import job_from_proto
from services.scheduler.domain.cluster import JobKey, WantedJob

_PAGE_SIZE = 1000


class TrainingClient:
    """Lists jobs.

    Args:
        channel: a channel of servicekit.rpc to the training service.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = training_pb2_grpc.TrainingServiceStub(channel)

    async def list_jobs(self) -> list[WantedJob]:
        """Return the queued and running jobs of all workspaces."""
        found: dict[JobKey, WantedJob] = {}
        # A job that starts between the two lists is in both: what was listed last is newer.
        for state in ("QUEUED", "RUNNING"):
            for job in await self._list(f'state = "{state}"'):
                found[job.key] = job
        return list(found.values())

    async def _list(self, condition: str) -> list[WantedJob]:
        found: list[WantedJob] = []
        token = ""
        while True:
            request = training_pb2.ListJobsRequest(
                page_size=_PAGE_SIZE, page_token=token, filter=condition, order_by="create_time"
            )
            with act_as(Identity.for_service(ALL_WORKSPACES, "scheduler")):
                page = await self._stub.ListJobs(request)
            found += [job for item in page.jobs if (job := job_from_proto(item, item.workspace)) is not None]
            token = page.next_page_token
            if not token:
                return found
