"""A worker's claim on one job, as the training service keeps it: taken, reported under, ended."""

import asyncio
import time
from enum import Enum

import structlog

from lepton.v1 import training_pb2 as pb
from servicekit.errors import Aborted, FailedPrecondition, InvalidArgument, LeptonError, NotFound, ResourceExhausted
from services.training.adapters.training_client import TrainingClient

_log = structlog.get_logger(__name__)

_FIRST_WAIT_SECONDS = 0.25
_LONGEST_WAIT_SECONDS = 5.0
# What says that the job is not, or no longer, this claim's.
_LOST = (Aborted, FailedPrecondition, NotFound)


class Answer(Enum):
    """What the service says to a report."""

    GO_ON = "go on"
    STOP = "stop"
    LOST = "lost"


class Claim:
    """The right to run a job until a higher epoch is given to somebody.

    Args:
        training: the training service.
        workspace, job: which one.
        worker, epoch: whose claim.
    """

    def __init__(self, training: TrainingClient, workspace: str, job: str, worker: str, epoch: int) -> None:
        self._training = training
        self._workspace = workspace
        self.job = job
        self._worker = worker
        self._epoch = epoch

    async def take(self) -> pb.Job | None:
        """Take the job, however long the service is away; None where it is not to be had."""
        request = pb.StartJobRequest(name=self.job, worker=self._worker, epoch=self._epoch)
        wait = _FIRST_WAIT_SECONDS
        while True:
            try:
                return await self._training.start(self._workspace, request)
            except _LOST as error:
                _log.info("job not taken", job=self.job, epoch=self._epoch, why=error.message)
                return None
            except LeptonError as error:
                _log.info("job not taken yet", job=self.job, why=error.message)
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT_SECONDS, 2 * wait)

    async def report(self, request: pb.ReportJobRequest) -> Answer:
        """Tell how far the job is.

        Raises:
            LeptonError: the service did not take the report.
        """
        request.MergeFrom(pb.ReportJobRequest(name=self.job, worker=self._worker, epoch=self._epoch))
        try:
            return Answer.STOP if await self._training.report(self._workspace, request) else Answer.GO_ON
        except _LOST as error:
            _log.info("job lost", job=self.job, epoch=self._epoch, why=error.message)
            return Answer.LOST

    async def finish(self, outcome: pb.FinishJobRequest, patience_seconds: float = float("inf")) -> None:
        """Tell how the job ended, trying again while the service is away: a version that is registered must be known.

        Args:
            outcome: how; the claim is filled in.
            patience_seconds: how long to try.
        """
        outcome.MergeFrom(self._as_end())
        ends, wait = time.monotonic() + patience_seconds, _FIRST_WAIT_SECONDS
        while True:
            try:
                await self._training.finish(self._workspace, outcome)
                return
            except _LOST as error:
                _log.warning("end of job not taken", job=self.job, epoch=self._epoch, why=error.message)
                return
            except (InvalidArgument, ResourceExhausted) as error:
                _log.error("end of job refused", job=self.job, epoch=self._epoch, why=error.message)
                # Whatever is wrong with it will not change; a job must end all the same.
                outcome = self._refused(outcome, error)
            except LeptonError as error:
                _log.info("end of job not taken yet", job=self.job, why=error.message)
            if time.monotonic() + wait > ends:
                return
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT_SECONDS, 2 * wait)

    def _as_end(self) -> pb.FinishJobRequest:
        return pb.FinishJobRequest(name=self.job, worker=self._worker, epoch=self._epoch)

    def _refused(self, outcome: pb.FinishJobRequest, error: LeptonError) -> pb.FinishJobRequest:
        message = f"its end, {pb.JobState.Name(outcome.state)}, was refused: {error.message}"[:1000]
        plain = pb.FinishJobRequest(state=pb.JOB_STATE_FAILED, error_reason="INTERNAL", error_message=message)
        plain.MergeFrom(self._as_end())
        return plain
