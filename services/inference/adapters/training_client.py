"""The training service, as an inference worker sees it: what versions were evaluated on after they were registered."""

import grpc

from lepton.v1 import training_pb2 as pb
from lepton.v1.training_pb2_grpc import TrainingServiceStub
from servicekit.errors import LeptonError

# Of the newest jobs that succeeded.
_LOOKED_AT = 500


class TrainingClient:
    """Reads jobs.

    Args:
        channel: a channel of servicekit.rpc to the training service.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TrainingServiceStub(channel)

    async def evaluated_on(self, ref: str) -> tuple[str, str] | None:
        """Return the dataset version and the target column that a version was last evaluated on; None for none known.

        Also without an answer: a model is served, and measured, while training is away.
        """
        request = pb.ListJobsRequest(page_size=_LOOKED_AT, filter='state = "SUCCEEDED"')
        try:
            page = await self._stub.ListJobs(request)
        except LeptonError:
            return None
        found = (job.spec for job in page.jobs if job.spec.kind == pb.JOB_KIND_EVALUATE and job.version == ref)
        return next(((spec.dataset, spec.target) for spec in found), None)
