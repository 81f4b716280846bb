"""The training service, as its own workers see it."""

import grpc

from lepton.v1 import training_pb2 as pb
from lepton.v1.training_pb2_grpc import TrainingServiceStub
from servicekit.auth import Identity, act_as


class TrainingClient:
    """Takes jobs and tells how they go, each in its own workspace.

    Args:
        channel: a channel of servicekit.rpc to the training service.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TrainingServiceStub(channel)

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

    async def finish(self, workspace: str, request: pb.FinishJobRequest) -> pb.Job:
        """Tell how a job ended.

        Raises:
            Aborted: it was given to another worker.
        """
        with act_as(Identity.for_service(workspace, "training")):
            return await self._stub.FinishJob(request)
