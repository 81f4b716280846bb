"""Makes a training worker's assignment true: starts the jobs that are new in it, stops those that are gone."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Self

import structlog
from google.protobuf import json_format

from lepton.v1 import scheduler_pb2
from lepton.v1 import training_pb2 as pb
from servicekit.errors import Aborted, FailedPrecondition, LeptonError, NotFound, Unavailable
from servicekit.worker import Holding
from services.training.adapters.training_client import TrainingClient
from services.training.worker.children import Child, Children

_log = structlog.get_logger(__name__)

_REPORT_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_SIGKILL = -9


class JobRunner:
    """The jobs of one worker.

    Args:
        worker: its id.
        training: the training service.
        children: where jobs run.
        stop_seconds: how long a child may take to stop.
    """

    def __init__(self, worker: str, training: TrainingClient, children: Children, stop_seconds: float) -> None:
        self._worker = worker
        self._training = training
        self._children = children
        self._stop_seconds = stop_seconds
        self._running: dict[tuple[str, str, int], _Run] = {}
        self._seen: set[tuple[str, str, int]] = set()
        self.on_change: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(run.abandon() for run in list(self._running.values())))

    async def apply(self, assignment: scheduler_pb2.Assignment) -> None:
        """Start what is new in an assignment, stop what is no longer in it."""
        wanted = {(job.workspace, job.job, job.epoch): job for job in assignment.jobs}
        for key, run in list(self._running.items()):
            if key not in wanted and assignment.draining:
                _log.info("job given back", job=key[1], epoch=key[2])
                await run.give_back()
            elif key not in wanted:
                # The job ended elsewhere or is another's by now: whatever this child would say, nobody listens.
                _log.info("job taken away", job=key[1], epoch=key[2])
                await run.abandon()
        for key, placement in wanted.items():
            # The scheduler drops an ended job only after it heard of it: the same epoch is never run twice.
            if key not in self._seen:
                self._seen.add(key)
                self._start(key, placement)

    def holding(self) -> Holding:
        """Return what runs now."""
        return Holding(jobs=tuple(run.placement for run in self._running.values()), in_flight=len(self._running))

    async def give_back(self) -> None:
        """Stop every job and queue it again, for the worker leaves."""
        await asyncio.gather(*(run.give_back() for run in list(self._running.values())))

    def _start(self, key: tuple[str, str, int], placement: scheduler_pb2.JobPlacement) -> None:
        run = _Run(self._worker, placement, self._training, self._children, self._stop_seconds)
        self._running[key] = run
        run.task = asyncio.create_task(self._follow(key, run), name=f"job {placement.job}")

    async def _follow(self, key: tuple[str, str, int], run: "_Run") -> None:
        self.on_change()
        try:
            await run.run()
        except Exception as error:
            _log.error("job not run", job=key[1], exc_info=error)
        finally:
            del self._running[key]
            self.on_change()


class _Run:
    """One job on this worker, from its claim to its end."""

    def __init__(
        self,
        worker: str,
        placement: scheduler_pb2.JobPlacement,
        training: TrainingClient,
        children: Children,
        stop_seconds: float,
    ) -> None:
        self.placement = placement
        self.task: asyncio.Task[None] | None = None
        self._claim = {"name": placement.job, "worker": worker, "epoch": placement.epoch}
        self._training = training
        self._children = children
        self._stop_seconds = stop_seconds
        self._child: Child | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._was_abandoned = False
        self._gives_back = False
        self._reported = 0.0

    async def run(self) -> None:
        job = await self._claim_job()
        if job is None or job.state != pb.JOB_STATE_RUNNING:
            return
        self._child = await self._children.take()
        _log.info("job begins", job=job.name, epoch=self.placement.epoch, pid=self._child.pid)
        outcome = None
        try:
            spec = {
                "workspace": self.placement.workspace,
                "epoch": self.placement.epoch,
                "memory_bytes": self.placement.resources.memory_bytes,
                "cores": self.placement.resources.cores,
                "job": json_format.MessageToDict(job, preserving_proto_field_name=True),
            }
            async for line in self._child.run(json.dumps(spec).encode()):
                told = json.loads(line)
                if "state" in told:
                    outcome = json_format.ParseDict(told, pb.FinishJobRequest())
                else:
                    await self._report(told)
        finally:
            await self._child.stop(0.0 if outcome is None else self._stop_seconds)
        if not self._was_abandoned:
            await self._finish(outcome or _crash(await self._child.wait()))

    async def abandon(self) -> None:
        """Stop the child and say nothing more of the job."""
        self._was_abandoned = True
        await self._end()

    async def give_back(self) -> None:
        """Stop the child and queue the job again."""
        self._gives_back = True
        await self._end()

    async def _end(self) -> None:
        if self._child is not None:
            await self._child.stop(self._stop_seconds)
        if self.task is not None:
            await asyncio.gather(self.task, return_exceptions=True)

    async def _claim_job(self) -> pb.Job | None:
        while True:
            try:
                return await self._training.start(self.placement.workspace, pb.StartJobRequest(**self._claim))  # type: ignore[arg-type]
            except (Aborted, FailedPrecondition, NotFound) as error:
                _log.info("job not taken", job=self.placement.job, why=error.message)
                return None
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _report(self, told: dict[str, object]) -> None:
        # The last report before the end may be dropped: the end says all of it.
        if time.monotonic() - self._reported < _REPORT_SECONDS:
            return
        self._reported = time.monotonic()
        request = json_format.ParseDict(told, pb.ReportJobRequest(**self._claim))  # type: ignore[arg-type]
        try:
            if await self._training.report(self.placement.workspace, request):
                self._stop_child()
        except Aborted:
            self._was_abandoned = True
            self._stop_child()
        except LeptonError as error:
            _log.info("report lost", job=self.placement.job, error=error.message)

    def _stop_child(self) -> None:
        if self._child is not None and self._stopping is None:
            self._stopping = asyncio.create_task(self._child.stop(self._stop_seconds))

    async def _finish(self, outcome: pb.FinishJobRequest) -> None:
        if self._gives_back and outcome.state != pb.JOB_STATE_SUCCEEDED:
            outcome = pb.FinishJobRequest(state=pb.JOB_STATE_QUEUED)
        elif self._stopping is not None and outcome.state != pb.JOB_STATE_SUCCEEDED:
            outcome = pb.FinishJobRequest(state=pb.JOB_STATE_CANCELLED)
        outcome.MergeFrom(pb.FinishJobRequest(**self._claim))  # type: ignore[arg-type]
        while True:
            try:
                await self._training.finish(self.placement.workspace, outcome)
                return
            except Unavailable:
                # The version is registered: the service must hear of it, however long it is away.
                await asyncio.sleep(_RETRY_SECONDS)
            except LeptonError as error:
                _log.info("end not taken", job=self.placement.job, why=error.message)
                return


def _crash(code: int) -> pb.FinishJobRequest:
    """Return the end of a job whose child said none."""
    if code == _SIGKILL:
        reason, message = "OUT_OF_MEMORY", "its process was killed, most likely for want of memory: declare more"
    else:
        reason, message = "CHILD_CRASHED", f"its process ended with code {code}: see the worker's log"
    return pb.FinishJobRequest(state=pb.JOB_STATE_FAILED, error_reason=reason, error_message=message)
