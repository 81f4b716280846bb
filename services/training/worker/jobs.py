"""Makes a training worker's assignment true: starts the jobs that are new in it, ends those that are gone."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

import structlog

from lepton.v1 import scheduler_pb2
from servicekit.worker import Holding
from services.training.adapters.training_client import TrainingClient
from services.training.worker.children import Children
from services.training.worker.claim import Claim
from services.training.worker.run import Ending, JobRun, Limits

_log = structlog.get_logger(__name__)
# What a worker that leaves has for telling so of its jobs, beside the time that they have to stop.
_LEAVE_SECONDS = 5.0

# Workspace, job, epoch.
_Key = tuple[str, str, int]


class JobRunner:
    """The jobs of one worker; leaving ends them all without a word.

    Args:
        worker: its id.
        training: the training service.
        children: where jobs run.
        limits: of each child.
    """

    def __init__(self, worker: str, training: TrainingClient, children: Children, limits: Limits) -> None:
        self._worker = worker
        self._training = training
        self._children = children
        self._limits = limits
        self._running: dict[_Key, tuple[JobRun, asyncio.Task[None]]] = {}
        self._seen: set[_Key] = set()
        self.on_change: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for run, task in self._running.values():
            run.end(Ending.LOST)
            # Also one that only waits to tell its end to a service that is away.
            task.cancel()
        await self._all_ended()

    async def apply(self, assignment: scheduler_pb2.Assignment) -> None:
        """Start what is new in an assignment, end what is no longer in it; waits for neither."""
        wanted = {(job.workspace, job.job, job.epoch): job for job in assignment.jobs}
        for key, (run, _) in self._running.items():
            if key not in wanted:
                # Unless this worker is to leave, the job ended elsewhere or is another's by now.
                why = Ending.GIVEN_BACK if assignment.draining else Ending.LOST
                _log.info("job ends", job=key[1], epoch=key[2], why=why.value)
                run.end(why)
        # The scheduler drops an ended job only after it heard of it: the same epoch is never run twice.
        self._seen &= wanted.keys()
        for key, placement in wanted.items():
            if key not in self._seen:
                self._seen.add(key)
                self._start(key, placement)

    def holding(self) -> Holding:
        """Return what runs now."""
        runs = [run for run, _ in self._running.values()]
        children = [run.child for run in runs if run.child is not None]
        return Holding(
            jobs=tuple(run.placement for run in runs),
            in_flight=len(runs),
            processes=tuple(child.pid for child in children if child.is_alive),
        )

    async def give_back(self) -> None:
        """End every job and queue it again, for the worker leaves."""
        for run, _ in self._running.values():
            run.end(Ending.GIVEN_BACK)
        with contextlib.suppress(TimeoutError):
            # One that ended before may still try to tell it to a service that is away.
            async with asyncio.timeout(self._limits.stop_seconds + _LEAVE_SECONDS):
                await self._all_ended()

    def _start(self, key: _Key, placement: scheduler_pb2.JobPlacement) -> None:
        claim = Claim(self._training, placement.workspace, placement.job, self._worker, placement.epoch)
        run = JobRun(placement, claim, self._children, self._limits)
        task = asyncio.create_task(self._follow(key, run), name=f"job {placement.job}")
        self._running[key] = run, task

    async def _follow(self, key: _Key, run: JobRun) -> None:
        self.on_change()
        try:
            await run.run()
        except Exception as error:
            _log.error("job not followed to its end", job=key[1], exc_info=error)
        finally:
            del self._running[key]
            self.on_change()

    async def _all_ended(self) -> None:
        await asyncio.gather(*(task for _, task in list(self._running.values())), return_exceptions=True)
