"""The deployments service, as a worker sees it: loads and unloads for clients, wishes and plans of its own."""

import contextlib

import grpc

from lepton.v1 import inference_pb2 as pb
from lepton.v1.inference_pb2_grpc import InferenceServiceStub
from servicekit.auth import Identity, act_as
from servicekit.errors import AlreadyExists, FailedPrecondition, Unavailable
from services.inference.convert import tuning_from_proto
from services.inference.domain.tuning import Tuning
from services.inference.serving.locating import Holder, Location

_PAGE = 200


class DeploymentsClient:
    """Deploys and undeploys as the caller.

    Args:
        channel: a channel of servicekit.rpc to the inference service.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = InferenceServiceStub(channel)

    async def deploy(self, name: str) -> None:
        """Deploy a model's newest READY version under its name, unless it is deployed, and wait until it serves.

        Raises:
            NotFound: there is no such model, or none of its versions is READY.
            FailedPrecondition: it cannot be loaded.
            Unavailable: no worker has room for it.
        """
        with contextlib.suppress(AlreadyExists):
            await self._stub.CreateDeployment(pb.CreateDeploymentRequest(deployment=pb.Deployment(name=name)))
        async for answer in self._stub.WatchDeployment(pb.WatchDeploymentRequest(name=name)):
            if answer.deployment.ready_replicas:
                return
            if answer.deployment.state == pb.DEPLOYMENT_STATE_FAILED:
                raise FailedPrecondition(f"model {name!r}: {answer.deployment.message}", reason="MODEL_NOT_LOADED")
            if reason := answer.deployment.waiting_reason:
                raise Unavailable(f"model {name!r}: {answer.deployment.message}", reason=reason, retry_seconds=10.0)

    async def delete(self, name: str) -> None:
        """Delete a deployment.

        Raises:
            NotFound: there is none.
        """
        await self._stub.DeleteDeployment(pb.DeleteDeploymentRequest(name=name))

    async def locate(self, workspace: str, name: str, version: str) -> Location:
        """Return where a deployment of a workspace is served, as a service.

        Raises:
            NotFound: there is no such deployment or version.
        """
        request = pb.LocateDeploymentRequest(name=name, version=version)
        with act_as(Identity.for_service(workspace, "inference")):
            found = await self._stub.LocateDeployment(request)
        holders = tuple(Holder(item.address, item.in_flight) for item in found.holders)
        return Location(holders, found.reason, found.message)

    async def wishes(self) -> dict[tuple[str, str], Tuning]:
        """Return, by workspace and name, what is wished of execution plans: of all workspaces, as a service."""
        found: dict[tuple[str, str], Tuning] = {}
        token = ""
        while True:
            page = await self._stub.ListDeployments(pb.ListDeploymentsRequest(page_size=_PAGE, page_token=token))
            found |= {(item.workspace, item.name): tuning_from_proto(item.tuning) for item in page.deployments}
            token = page.next_page_token
            if not token:
                return found

    async def plans(self, name: str) -> list[pb.Plan]:
        """Return the plans that a deployment keeps.

        Raises:
            NotFound: there is none.
        """
        return list((await self._stub.GetDeployment(pb.GetDeploymentRequest(name=name))).plans)

    async def record(self, name: str, plan: pb.Plan) -> None:
        """Have a deployment keep a plan.

        Raises:
            NotFound: there is none.
        """
        await self._stub.RecordPlan(pb.RecordPlanRequest(deployment=name, plan=plan))
