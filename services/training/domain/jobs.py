"""Jobs: what state they can be in, and who may move them."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

from servicekit.errors import Aborted, FailedPrecondition, NotFound

# A job that takes its worker down this often does so by itself.
MAX_ATTEMPTS = 3
_FACTS_APART = timedelta(seconds=1)


class JobState(Enum):
    """Where a job stands."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_end(self) -> bool:
        """Whether nothing can follow."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        workspace, name: which one it is.
        model: the registry model that it writes; for lists.
        study: the job of the study that it is of; for lists.
        spec: what it was asked, serialised as the contract has it.
        state: where it stands.
        progress: 0 to 1.
        message: what it is doing, for people.
        metrics: latest value by name.
        version: what it registered, as name@number.
        evaluation: held-out scores, serialised; empty until then.
        error_reason, error_message: why it failed.
        worker: who runs it.
        epoch: of that worker's claim.
        cancel_requested: whether a user asked it to stop.
        attempts: times it was started.
        sequence: number of its latest update.
        traceparent: of the call that created it.
        create_time, start_time, end_time: when.
        progress_time: when a fact told its progress last.
        checkpoint_object: what holds its latest checkpoint; empty without one.
        checkpoint_sha256, checkpoint_bytes, checkpoint_time: digest, size and age of that.
        usage: what its latest start took of the machine, serialised; empty until something is known.
        warnings: what in its rows looks wrong, for people.
        report_object: what holds its report; empty without one.
        report_sha256: digest of that.
    """

    workspace: str
    name: str
    model: str
    spec: bytes
    state: JobState
    create_time: datetime
    progress: float = 0.0
    message: str = "queued"
    metrics: dict[str, float] = field(default_factory=dict)
    version: str = ""
    evaluation: bytes = b""
    error_reason: str = ""
    error_message: str = ""
    worker: str = ""
    epoch: int = 0
    cancel_requested: bool = False
    attempts: int = 0
    sequence: int = 0
    traceparent: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    progress_time: datetime | None = None
    study: str = ""
    checkpoint_object: str = ""
    checkpoint_sha256: str = ""
    checkpoint_bytes: int = 0
    checkpoint_time: datetime | None = None
    usage: bytes = b""
    warnings: tuple[str, ...] = ()
    report_object: str = ""
    report_sha256: str = ""


@dataclass(frozen=True)
class Seen:
    """What a worker saw of a job beside its progress; what is empty leaves what was told before.

    Args:
        usage, warnings: as in Job.
    """

    usage: bytes = b""
    warnings: tuple[str, ...] = ()


_NOTHING = Seen()


@dataclass(frozen=True)
class Outcome:
    """How a worker says that a job ended.

    Args:
        state: SUCCEEDED, FAILED, CANCELLED, or QUEUED to give it back.
        version, evaluation, error_reason, error_message: as in Job.
        seen: beside that.
    """

    state: JobState
    version: str = ""
    evaluation: bytes = b""
    error_reason: str = ""
    error_message: str = ""
    seen: Seen = _NOTHING


def start(job: Job, worker: str, epoch: int, now: datetime) -> Job:
    """Return a job as a worker takes it; a higher epoch takes it over from a worker that was lost.

    Raises:
        Aborted: it was given to another worker since.
        FailedPrecondition: it ended.
    """
    if job.state.is_end:
        raise FailedPrecondition(f"job {job.name} is {job.state.value}", reason="JOB_ENDED")
    if (worker, epoch) == (job.worker, job.epoch) and job.state is JobState.RUNNING:
        return job
    if epoch <= job.epoch:
        raise Aborted(
            f"job {job.name} was given to another worker: epoch {epoch} is not above {job.epoch}", reason="STALE_EPOCH"
        )
    taken = replace(job, worker=worker, epoch=epoch)
    if job.cancel_requested:
        return _ended(taken, JobState.CANCELLED, "cancelled", now)
    if job.state is JobState.RUNNING and job.attempts >= MAX_ATTEMPTS:
        failed = _ended(taken, JobState.FAILED, "failed", now)
        lost = f"its worker was lost {job.attempts} times while it ran: it may need more memory than it declares"
        return replace(failed, error_reason="WORKER_LOST", error_message=lost)
    return replace(
        taken,
        state=JobState.RUNNING,
        attempts=job.attempts + 1,
        progress=0.0,
        message="started",
        metrics={},
        usage=b"",
        warnings=(),
        sequence=job.sequence + 1,
        start_time=job.start_time or now,
    )


def report(
    job: Job,
    worker: str,
    epoch: int,
    progress: float,
    message: str,
    metrics: dict[str, float],
    now: datetime,
    seen: Seen = _NOTHING,
) -> Job:
    """Return a job after its worker reported; the same job where the report says nothing new.

    What it took of the machine is no update of its own: it changes with every look.

    Raises:
        Aborted: it is no longer that worker's.
    """
    check_claim(job, worker, epoch)
    job = _with_seen(job, seen)
    # Once it is to stop, that is what it does, whatever its worker is at.
    message = job.message if job.cancel_requested else message
    if not metrics and (progress, message) == (job.progress, job.message):
        return job
    return replace(
        job,
        progress=progress,
        message=message,
        metrics={**job.metrics, **metrics},
        sequence=job.sequence + 1,
        progress_time=now if _is_telling(job, progress, now) else job.progress_time,
    )


def _is_telling(job: Job, progress: float, now: datetime) -> bool:
    """Return whether progress is worth a fact: each tenth, but never two within a second."""
    is_soon = job.progress_time is not None and now - job.progress_time < _FACTS_APART
    return int(progress * 10) != int(job.progress * 10) and not is_soon


def finish(job: Job, worker: str, epoch: int, outcome: Outcome, now: datetime) -> Job:
    """Return a job as its worker ends it, or gives it back.

    Raises:
        Aborted: it is no longer that worker's.
        FailedPrecondition: RUNNING is no end.
    """
    if job.state is outcome.state and (worker, epoch) == (job.worker, job.epoch) and job.state.is_end:
        return job
    check_claim(job, worker, epoch)
    job = _with_seen(job, outcome.seen)
    if outcome.state is JobState.RUNNING:
        raise FailedPrecondition("a job cannot end as RUNNING", reason="BAD_STATE")
    if outcome.state is JobState.QUEUED and job.cancel_requested:
        return _ended(job, JobState.CANCELLED, "cancelled", now)
    if outcome.state is JobState.QUEUED:
        # Not counted: the worker left in order, which says nothing of the job.
        return replace(
            job,
            state=JobState.QUEUED,
            worker="",
            progress=0.0,
            message="queued again: its worker left",
            attempts=job.attempts - 1,
            sequence=job.sequence + 1,
        )
    ended = _ended(job, outcome.state, outcome.state.value.lower(), now)
    return replace(
        ended,
        version=outcome.version,
        evaluation=outcome.evaluation,
        error_reason=outcome.error_reason,
        error_message=outcome.error_message,
    )


def keep_checkpoint(
    job: Job, worker: str, epoch: int, object_name: str, sha256: str, size_bytes: int, now: datetime
) -> Job:
    """Return a job as its worker kept a checkpoint of it.

    Raises:
        Aborted: it is no longer that worker's.
    """
    check_claim(job, worker, epoch)
    return replace(
        job,
        checkpoint_object=object_name,
        checkpoint_sha256=sha256,
        checkpoint_bytes=size_bytes,
        checkpoint_time=now,
        sequence=job.sequence + 1,
    )


def keep_report(job: Job, worker: str, epoch: int, object_name: str, sha256: str) -> Job:
    """Return a job as its worker kept a report of it.

    Raises:
        Aborted: it is no longer that worker's.
    """
    check_claim(job, worker, epoch)
    return replace(job, report_object=object_name, report_sha256=sha256, sequence=job.sequence + 1)


def check_report(job: Job) -> None:
    """Check that a job has a report.

    Raises:
        NotFound: it has none, or none yet.
    """
    if not job.report_object:
        raise NotFound(
            f"job {job.name} has no report: fits, fine-tunes and evaluations have one once their rows are scored; a "
            "study's best model has that of the job that registered it",
            reason="REPORT_NOT_FOUND",
        )


def retry(job: Job) -> Job:
    """Return a failed job as a user queues it again; its checkpoint stays, to go on from.

    Raises:
        FailedPrecondition: it did not fail.
    """
    if job.state is not JobState.FAILED:
        raise FailedPrecondition(
            f"job {job.name} is {job.state.value}: only a failed job is tried again", reason="JOB_NOT_FAILED"
        )
    return replace(
        job,
        state=JobState.QUEUED,
        worker="",
        progress=0.0,
        message="queued again",
        error_reason="",
        error_message="",
        cancel_requested=False,
        attempts=0,
        end_time=None,
        sequence=job.sequence + 1,
    )


def cancel(job: Job, now: datetime) -> Job:
    """Return a job after a user asked it to stop: a queued one is stopped, a running one told; an ended one stays."""
    if job.state.is_end or job.cancel_requested:
        return job
    if job.state is JobState.QUEUED:
        return replace(_ended(job, JobState.CANCELLED, "cancelled", now), cancel_requested=True)
    return replace(job, cancel_requested=True, message="stopping", sequence=job.sequence + 1)


def check_claim(job: Job, worker: str, epoch: int) -> None:
    """Check that a job runs, and is a worker's.

    Raises:
        Aborted: it is not.
    """
    if job.state is not JobState.RUNNING or (worker, epoch) != (job.worker, job.epoch):
        raise Aborted(
            f"job {job.name} is {job.state.value} at epoch {job.epoch}, not {worker}'s at epoch {epoch}",
            reason="STALE_EPOCH",
        )


def _with_seen(job: Job, seen: Seen) -> Job:
    if seen == _NOTHING:
        return job
    return replace(job, usage=seen.usage or job.usage, warnings=seen.warnings or job.warnings)


def _ended(job: Job, state: JobState, message: str, now: datetime) -> Job:
    progress = 1.0 if state is JobState.SUCCEEDED else job.progress
    if state is not JobState.FAILED:
        # Nobody goes on from there.
        job = replace(job, checkpoint_object="", checkpoint_sha256="", checkpoint_bytes=0, checkpoint_time=None)
    return replace(job, state=state, progress=progress, message=message, sequence=job.sequence + 1, end_time=now)
