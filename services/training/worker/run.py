"""One job on a worker, from its claim to its end."""

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import structlog
from google.protobuf import json_format

from lepton.v1 import scheduler_pb2
from lepton.v1 import training_pb2 as pb
from servicekit import telemetry
from servicekit.errors import LeptonError
from services.training.convert import hyperparameters_from_proto
from services.training.domain.families.catalog import with_smaller_batch
from services.training.worker.children import Child, Children
from services.training.worker.claim import Answer, Claim
from services.training.worker.usage import Meter

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_REPORT_SECONDS = 0.5
# A child that has nothing to tell may still be asked to stop: the answer to a report says so.
_HEARTBEAT_SECONDS = 2.0
# What a child told last is worth less than a job's end.
_LAST_REPORT_SECONDS = 2.0
_MEMORY_SECONDS = 0.25
# A worker that leaves does not wait for ever: the next claim has a higher epoch anyway.
_LEAVE_SECONDS = 3.0
_SIGKILL = -9
_OUT_OF_MEMORY = "OUT_OF_MEMORY"
# What is killed this often most likely wants more memory than the machine has.
_MOST_CHILDREN = 3


class Ending(Enum):
    """Why a job ends before its child says so."""

    CANCELLED = "cancelled"
    GIVEN_BACK = "given back"
    LOST = "lost"


@dataclass(frozen=True)
class Limits:
    """What a child may take.

    Args:
        stop_seconds: how long it may take to stop before it is killed.
        library_bytes: what its libraries may keep, beside the memory that its job declares.
    """

    stop_seconds: float = 5.0
    library_bytes: int = 512 << 20


class JobRun:
    """One job on this worker.

    Args:
        placement: the job, with what it may take.
        claim: the worker's claim on it.
        children: where it runs.
        limits: of its child.
    """

    def __init__(self, placement: scheduler_pb2.JobPlacement, claim: Claim, children: Children, limits: Limits) -> None:
        self.placement = placement
        self.child: Child | None = None
        self._claim = claim
        self._children = children
        self._limits = limits
        self._ending: Ending | None = None
        self._ended = asyncio.Event()
        self._took_too_much = False
        self._news: dict[str, Any] = {"progress": 0.0, "message": "started"}
        self._has_news = asyncio.Event()
        self._meter = Meter()
        # By the child, and by its worker.
        self._warnings: list[str] = []
        self._noted: list[str] = []

    def end(self, why: Ending) -> None:
        """End the job; `run` returns soon. The first reason counts, but for the loss of the claim."""
        if self._ending is None or why is Ending.LOST:
            self._ending = why
        self._ended.set()

    async def run(self) -> None:
        """Claim the job, run it in a child, and tell its end."""
        job = await self._unless_ended(self._claim.take())
        if job is not None and job.state != pb.JOB_STATE_RUNNING:
            # It was cancelled meanwhile, or took too many workers down.
            return
        if job is not None and job.traceparent:
            # Whoever follows a trace finds what the worker says of the job, too.
            structlog.contextvars.bind_contextvars(trace_id=telemetry.trace_id_of(job.traceparent))
        outcome = await self._outcome(job) if job is not None else None
        if self._ending is Ending.LOST or (job is None and self._ending is None):
            return
        patience = _LEAVE_SECONDS if self._ending is Ending.GIVEN_BACK else float("inf")
        final = self._final(outcome)
        self._add_seen(final)
        _log.info("job ended", job=self._claim.job, epoch=self.placement.epoch, state=pb.JobState.Name(final.state))
        await self._claim.finish(final, patience)

    async def _outcome(self, job: pb.Job) -> pb.FinishJobRequest | None:
        try:
            return await self._in_child(job)
        except Exception as error:
            _log.error("job not run", job=job.name, exc_info=error)
            return _failed("INTERNAL", "an internal error: the worker's log has it, under this job's name")

    async def _in_child(self, job: pb.Job) -> pb.FinishJobRequest | None:
        """Run the job in a child; return how it ended, as it says or as its exit shows; None where it was ended.

        One that takes more memory than it may is tried once more with smaller batches, where these make a difference.
        """
        outcome = await self._in_children(job)
        smaller = _with_smaller_batch(job) if outcome is not None and outcome.error_reason == _OUT_OF_MEMORY else None
        if smaller is None:
            return outcome
        size = smaller.spec.hyperparameters["batch_size"]
        _log.warning("job out of memory: again with smaller batches", job=job.name, batch_size=size)
        self._noted.append(f"out of memory: tried again with batch_size {size}")
        again = await self._in_children(smaller)
        if again is not None and again.error_reason == _OUT_OF_MEMORY:
            again.error_message = f"{again.error_message} (batch_size {size} did not suffice)"
        return again

    async def _in_children(self, job: pb.Job) -> pb.FinishJobRequest | None:
        """Run the job; a child that is killed says nothing of it: another one goes on from the last checkpoint."""
        for attempt in range(1, _MOST_CHILDREN + 1):
            outcome, code = await self._in_one_child(job)
            if outcome is not None or self._ending is not None:
                return outcome
            if code != _SIGKILL or attempt == _MOST_CHILDREN:
                return _crash(code)
            _log.warning("child killed: another one goes on", job=job.name, attempt=attempt)
        return None

    async def _in_one_child(self, job: pb.Job) -> tuple[pb.FinishJobRequest | None, int]:
        """Run the job in one child; return how it ended, None where that did not say, and then its exit code."""
        self._took_too_much = False
        # Libraries may have to load first.
        child = self.child = await self._unless_ended(self._children.take(job.spec.family))
        if child is None:
            return None, 0
        _log.info("job begins", job=job.name, epoch=self.placement.epoch, pid=child.pid)
        self._meter.begin()
        # A watch each: reports must not hold up what the child tells, nor the other way round.
        all_told = asyncio.Event()
        relay = asyncio.create_task(self._relay(all_told))
        watches = [relay, asyncio.create_task(self._guard(child))]
        outcome = None
        try:
            outcome = await self._told(child, self._spec(job))
            all_told.set()
            self._has_news.set()
            await asyncio.wait([relay], timeout=_LAST_REPORT_SECONDS)
        finally:
            for watch in watches:
                watch.cancel()
            self._meter.look(child)
            # One that says no more by itself is about to exit: how, is all that there is to be known.
            ends_itself = outcome is not None or (self._ending is None and not self._took_too_much)
            self._children.part(child, self._limits.stop_seconds if ends_itself else 0.0)
        if outcome is None and self._took_too_much:
            mebibytes = self.placement.resources.memory_bytes >> 20
            return _failed(_OUT_OF_MEMORY, f"it took more than the {mebibytes} MiB that it declares: declare more"), 0
        is_silent = outcome is None and self._ending is None
        return outcome, await child.wait() if is_silent else 0

    async def _told(self, child: Child, spec: bytes) -> pb.FinishJobRequest | None:
        async with contextlib.aclosing(child.run(spec)) as lines:
            async for line in lines:
                told = json.loads(line)
                if "state" in told:
                    return json_format.ParseDict(told, pb.FinishJobRequest())
                if "warnings" in told:
                    self._warnings = told["warnings"]
                    continue
                # Steps come faster than reports go: the latest counts, with the latest metrics.
                self._news = self._news | {name: value for name, value in told.items() if value or name == "message"}
                self._has_news.set()
        return None

    async def _relay(self, all_told: asyncio.Event) -> None:
        """Report what the child tells, and ask from time to time whether to go on; the last step is not left out."""
        while not all_told.is_set():
            await _wait(self._has_news, _HEARTBEAT_SECONDS)
            await self._report()
            await _wait(all_told, _REPORT_SECONDS)
        if "metrics" in self._news:
            await self._report()

    async def _report(self) -> None:
        self._has_news.clear()
        news, self._news = self._news, {name: self._news[name] for name in ("progress", "message")}
        try:
            request = json_format.ParseDict(news, pb.ReportJobRequest())
            self._add_seen(request)
            answer = await self._claim.report(request)
        except (LeptonError, json_format.ParseError) as error:
            _log.info("report waits", job=self._claim.job, error=str(error))
            self._news = news | self._news
            return
        if answer is not Answer.GO_ON:
            self.end(Ending.LOST if answer is Answer.LOST else Ending.CANCELLED)

    async def _guard(self, child: Child) -> None:
        """Stop the child once the job is to end, or once it takes more memory than it may."""
        most = self.placement.resources.memory_bytes + self._limits.library_bytes
        while not self._ended.is_set():
            if self._meter.look(child) > most:
                self._took_too_much = True
                # It has no memory to say anything more.
                await child.stop(0.0)
                return
            await _wait(self._ended, _MEMORY_SECONDS)
        # Whatever it would still say, nobody listens.
        await child.stop(0.0 if self._ending is Ending.LOST else self._limits.stop_seconds)

    def _add_seen(self, request: pb.ReportJobRequest | pb.FinishJobRequest) -> None:
        request.usage.CopyFrom(self._meter.usage())
        if not request.warnings:
            request.warnings.extend((*self._noted, *self._warnings))

    def _spec(self, job: pb.Job) -> bytes:
        spec = {
            "workspace": self.placement.workspace,
            "epoch": self.placement.epoch,
            "memory_bytes": self.placement.resources.memory_bytes,
            "job": json_format.MessageToDict(job, preserving_proto_field_name=True),
        }
        return json.dumps(spec).encode()

    def _final(self, outcome: pb.FinishJobRequest | None) -> pb.FinishJobRequest:
        """Return what the service is told: what the child said where that is an end, else why it was ended."""
        if outcome is not None and outcome.state in (pb.JOB_STATE_SUCCEEDED, pb.JOB_STATE_FAILED):
            return outcome
        if self._ending is Ending.GIVEN_BACK:
            return pb.FinishJobRequest(state=pb.JOB_STATE_QUEUED)
        if self._ending is Ending.CANCELLED:
            return pb.FinishJobRequest(state=pb.JOB_STATE_CANCELLED)
        return _failed("CHILD_CRASHED", "its process was stopped by somebody else")

    async def _unless_ended(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """Return what some work gives; None where the job is to end first."""
        task, ended = asyncio.create_task(work), asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            ended.cancel()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait until an event is set, or that long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _failed(reason: str, message: str) -> pb.FinishJobRequest:
    return pb.FinishJobRequest(state=pb.JOB_STATE_FAILED, error_reason=reason, error_message=message)


def _with_smaller_batch(job: pb.Job) -> pb.Job | None:
    """Return a job with smaller batches; None where these would not help."""
    if not job.spec.family:
        return None
    settings = hyperparameters_from_proto(job.spec.hyperparameters)
    smaller = with_smaller_batch(job.spec.family, settings)
    if smaller is None:
        return None
    found = pb.Job()
    found.CopyFrom(job)
    found.spec.hyperparameters["batch_size"] = json.dumps(smaller["batch_size"])
    return found


def _crash(code: int) -> pb.FinishJobRequest:
    """Return the end of a job whose child said none."""
    if code == _SIGKILL:
        # Not by us: the kernel ends processes like this when a machine or a container runs out of memory.
        return _failed(_OUT_OF_MEMORY, "its process was killed, most likely for want of memory: declare more")
    return _failed("CHILD_CRASHED", f"its process ended with code {code}: see the worker's log")
