"""The inference service, as the scheduler sees it: deployments of all workspaces."""

import grpc

from lepton.v1 import inference_pb2, inference_pb2_grpc
from servicekit.auth import ALL_WORKSPACES, Identity, act_as
from services.scheduler.convert import deployment_from_proto
from services.scheduler.domain.cluster import WantedDeployment

_PAGE_SIZE = 1000


class InferenceClient:
    """Lists deployments.

    Args:
        channel: a channel of servicekit.rpc to the inference service.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = inference_pb2_grpc.InferenceServiceStub(channel)

    async def list_deployments(self) -> list[WantedDeployment]:
        """Return the deployments of all workspaces; those whose version is not resolved yet are left out."""
        found: list[WantedDeployment] = []
        token = ""
        while True:
            request = inference_pb2.ListDeploymentsRequest(page_size=_PAGE_SIZE, page_token=token)
            with act_as(Identity.for_service(ALL_WORKSPACES, "scheduler")):
                page = await self._stub.ListDeployments(request)
            found += [deployment_from_proto(item, item.workspace) for item in page.deployments if item.number > 0]
            token = page.next_page_token
            if not token:
                return found
