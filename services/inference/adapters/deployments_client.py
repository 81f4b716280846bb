"""The deployments service, as a worker sees it when a client asks it to load or unload a model."""

import grpc

from lepton.v1 import inference_pb2 as pb
from lepton.v1.inference_pb2_grpc import InferenceServiceStub
from servicekit.errors import AlreadyExists


class DeploymentsClient:
    """Deploys and undeploys as the caller.

    Args:
        channel: a channel of servicekit.rpc to the inference service.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = InferenceServiceStub(channel)

    async def deploy(self, name: str) -> None:
        """Deploy a model's newest READY version under its name, unless it is deployed.

        Raises:
            NotFound: there is no such model, or none of its versions is READY.
        """
        try:
            await self._stub.CreateDeployment(pb.CreateDeploymentRequest(deployment=pb.Deployment(name=name)))
        except AlreadyExists:
            return

    async def delete(self, name: str) -> None:
        """Delete a deployment.

        Raises:
            NotFound: there is none.
        """
        await self._stub.DeleteDeployment(pb.DeleteDeploymentRequest(name=name))
