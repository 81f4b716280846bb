"""The deployments service, as a worker sees it when a client asks it to load or unload a model."""

import contextlib

import grpc

from lepton.v1 import inference_pb2 as pb
from lepton.v1.inference_pb2_grpc import InferenceServiceStub
from servicekit.errors import AlreadyExists, FailedPrecondition


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
        """
        with contextlib.suppress(AlreadyExists):
            await self._stub.CreateDeployment(pb.CreateDeploymentRequest(deployment=pb.Deployment(name=name)))
        async for answer in self._stub.WatchDeployment(pb.WatchDeploymentRequest(name=name)):
            if answer.deployment.ready_replicas:
                return
            if answer.deployment.state == pb.DEPLOYMENT_STATE_FAILED:
                raise FailedPrecondition(f"model {name!r}: {answer.deployment.message}", reason="MODEL_NOT_LOADED")

    async def delete(self, name: str) -> None:
        """Delete a deployment.

        Raises:
            NotFound: there is none.
        """
        await self._stub.DeleteDeployment(pb.DeleteDeploymentRequest(name=name))
