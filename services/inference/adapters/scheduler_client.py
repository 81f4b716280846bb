"""The scheduler, as the deployments service sees it: why replicas have no worker."""

import grpc

from lepton.v1 import scheduler_pb2 as pb
from lepton.v1.scheduler_pb2_grpc import SchedulerServiceStub
from servicekit.auth import ALL_WORKSPACES, Identity, act_as
from services.inference.domain.deployments import Waiting


class SchedulerClient:
    """Reads what has no place.

    Args:
        channel: a channel of servicekit.rpc to the scheduler.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = SchedulerServiceStub(channel)

    async def waiting(self) -> dict[tuple[str, str], Waiting]:
        """Return why deployments have replicas without a worker, by workspace and name.

        Raises:
            LeptonError: the scheduler does not answer.
        """
        with act_as(Identity.for_service(ALL_WORKSPACES, "inference")):
            page = await self._stub.ListPlacements(pb.ListPlacementsRequest(page_size=1))
        return {
            (item.workspace, item.deployment): Waiting(item.reason, item.message)
            for item in page.unplaced
            if item.deployment
        }
