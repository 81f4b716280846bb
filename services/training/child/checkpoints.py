"""A job's checkpoints, sent to the training service beside the fit."""

import asyncio
import concurrent.futures
import time

import structlog

from lepton.v1 import training_pb2 as pb
from servicekit.errors import DataLoss, LeptonError
from services.training.adapters.training_client import TrainingClient
from services.training.domain.families.checkpoints import Checkpoint

_log = structlog.get_logger(__name__)


class JobCheckpoints:
    """The fit's port for checkpoints: it calls from a thread of its own, the service is called from the event loop.

    Args:
        training: the training service.
        workspace: the job's.
        claim: the job, its worker and epoch.
        seconds: how far apart they are.
    """

    def __init__(
        self, training: TrainingClient, workspace: str, claim: pb.SaveCheckpointHeader, seconds: float
    ) -> None:
        self._training = training
        self._workspace = workspace
        self._claim = claim
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._one_at_a_time = asyncio.Lock()
        self._sending: concurrent.futures.Future[None] | None = None
        self._last = time.monotonic()
        self.found: Checkpoint | None = None
        # Why the latest could not be kept, for people; empty where it could.
        self.trouble = ""

    async def load(self) -> None:
        """Find the one to go on from; a damaged one is none.

        Raises:
            Unavailable: the service is away.
        """
        try:
            content = await self._training.load_checkpoint(self._workspace, self._claim.name)
        except DataLoss as error:
            _log.warning("job begins anew", why=error.message)
            return
        self.found = Checkpoint(content) if content else None

    def is_due(self) -> bool:
        """Return whether the time is over, and the one before is on its way no longer."""
        is_free = self._sending is None or self._sending.done()
        return is_free and time.monotonic() - self._last >= self._seconds

    def keep(self, checkpoint: Checkpoint) -> None:
        """Send one, after those before."""
        self._sending = asyncio.run_coroutine_threadsafe(self._send(checkpoint), self._loop)
        self._last = time.monotonic()

    async def settle(self, seconds: float) -> None:
        """Wait for a while until the latest is kept."""
        if self._sending is not None:
            await asyncio.wait([asyncio.wrap_future(self._sending)], timeout=seconds)

    async def _send(self, checkpoint: Checkpoint) -> None:
        async with self._one_at_a_time:
            try:
                await self._training.save_checkpoint(self._workspace, self._claim, checkpoint.content)
                self.trouble = ""
            except LeptonError as error:
                # The fit goes on: the one before is still there, and the next may find room.
                self.trouble = f"no checkpoint kept: {error.message}"
                _log.warning("no checkpoint kept", reason=error.reason, why=error.message)
