"""Jobs: submit, follow, cancel, list."""

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from lepton import errors, names, progress
from lepton.arguments import build, one_of
from lepton.connection import Connection, current
from lepton.interrupts import job_continues, job_may_be_queued
from lepton.reports import Report
from lepton.v1 import training_pb2

_ENDED = {training_pb2.JOB_STATE_SUCCEEDED, training_pb2.JOB_STATE_FAILED, training_pb2.JOB_STATE_CANCELLED}
# How long the platform may be away from one who follows a job, and how far apart one asks for it.
_AWAY_SECONDS, _AWAY_WAIT_SECONDS = 120.0, 0.5


@dataclass(frozen=True)
class Update:
    """One report of a running job.

    Args:
        sequence: its number in the job, from 1.
        state: QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED.
        progress: how far, 0 to 1.
        message: what the job was doing.
        step: the epoch or boosting round that the metrics belong to.
        metrics: value by name.
        time: when it happened, UTC.
        peak_memory_bytes: the most memory that the job had taken by then; 0 where nothing is known.
        core_seconds: cores times seconds that it had computed by then.
    """

    sequence: int
    state: str
    progress: float
    message: str
    step: int
    metrics: Mapping[str, float]
    time: datetime
    peak_memory_bytes: int = 0
    core_seconds: float = 0.0


class Job:
    """One run on the platform.

    Args:
        connection: the platform that runs it.
        message: what the training service says of it.
    """

    def __init__(self, connection: Connection, message: training_pb2.Job) -> None:
        self.connection = connection
        self.message = message

    @classmethod
    def submit(cls, spec: training_pb2.JobSpec, *, connection: Connection | None = None) -> "Job":
        """Queue a job.

        Raises:
            InvalidArgument: an unknown family or hyperparameter; the message lists the known ones.
            NotFound: the dataset or base version does not exist.
        """
        connection = connection or current()
        request = training_pb2.CreateJobRequest(spec=spec, request_id=names.request_id())
        with job_may_be_queued():
            return cls(connection, connection.training.CreateJob(request))

    @classmethod
    def get(cls, name: str, *, connection: Connection | None = None) -> "Job":
        """Return a job by its id.

        Raises:
            NotFound: there is none.
        """
        connection = connection or current()
        return cls(connection, connection.training.GetJob(build(training_pb2.GetJobRequest, name=name)))

    @classmethod
    def list(
        cls, *, state: str = "", model: str = "", limit: int = 50, connection: Connection | None = None
    ) -> pd.DataFrame:
        """Return one row a job, newest first.

        Columns: name, kind, family, model, state, progress, version, peak_mib, core_seconds, create_time.

        Raises:
            InvalidArgument: the state is unknown; the message lists the known ones.
        """
        state = one_of(state.upper(), _STATES, "state") if state else ""
        connection = connection or current()
        conditions = [f'{key} = "{value}"' for key, value in (("state", state), ("model", model)) if value]
        request = build(training_pb2.ListJobsRequest, page_size=limit, filter=" AND ".join(conditions))
        rows = [_row(job) for job in connection.training.ListJobs(request).jobs]
        return pd.DataFrame(rows, columns=_COLUMNS)

    @classmethod
    def all(cls, *, connection: Connection | None = None) -> "Sequence[Job]":
        """Return every job, newest first."""
        connection = connection or current()
        found = _all_jobs(connection, build(training_pb2.ListJobsRequest, page_size=1000))
        return [cls(connection, message) for message in found]

    @property
    def name(self) -> str:
        """The job's id."""
        return self.message.name

    @property
    def state(self) -> str:
        """QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED, as last seen."""
        return state_name(self.message.state)

    @property
    def version(self) -> str:
        """The model version that it registered, as name@number; empty until then."""
        return self.message.version

    @property
    def warnings(self) -> Sequence[str]:
        """What in its rows looks wrong, as last seen: a column that gives the target away, say."""
        return list(self.message.warnings)

    def warn(self, stacklevel: int = 2) -> None:
        """Raise each of the job's warnings as Python's, an `errors.DataWarning`.

        Args:
            stacklevel: whose line is named: 2 is the caller's.
        """
        for text in self.message.warnings:
            warnings.warn(text, errors.DataWarning, stacklevel=stacklevel + 1)

    def report(self) -> Report:
        """Return what is to be seen of its model on the rows that it was scored on: `job.report().save("report.html")`.

        Raises:
            NotFound: it has none, or none yet.
        """
        return Report.of_job(self.connection, self.refresh().message)

    def tensorboard(self, logdir: str | Path, *, follow: bool = False) -> Path:
        """Write the job's metrics as TensorBoard's event files; return the run's folder, LOGDIR/MODEL/JOB.

        Args:
            logdir: as `tensorboard --logdir` takes it.
            follow: write what comes, too, until the job ends.
        """
        from lepton.event_files import write_run

        return write_run(self, Path(logdir), follow=follow)

    def refresh(self) -> "Job":
        """Ask the platform how the job stands; return the job."""
        self.message = self.connection.training.GetJob(build(training_pb2.GetJobRequest, name=self.name))
        return self

    def cancel(self) -> "Job":
        """Ask the job to stop; return it."""
        request = training_pb2.CancelJobRequest(name=self.name, request_id=names.request_id())
        self.message = self.connection.training.CancelJob(request)
        return self

    def retry(self) -> "Job":
        """Queue a failed job again; it goes on from its checkpoint where it has one. Return it.

        Raises:
            FailedPrecondition: it did not fail.
        """
        request = training_pb2.RetryJobRequest(name=self.name, request_id=names.request_id())
        self.message = self.connection.training.RetryJob(request)
        return self

    def watch(self, after_sequence: int = 0) -> Iterator[Update]:
        """Yield the job's updates, past and coming, until it ends; reconnects where it left off.

        Raises:
            Unavailable: the platform was away for two minutes; the job goes on, and `Job.get` finds it again.
        """
        away_since: float | None = None
        while True:
            try:
                request = build(training_pb2.WatchJobRequest, name=self.name, after_sequence=after_sequence)
                for answer in self.connection.training.WatchJob(request):
                    after_sequence = answer.sequence
                    yield _update(answer)
                if self.refresh().message.state in _ENDED and self.message.sequence <= after_sequence:
                    return
                away_since = None
            except errors.Unavailable:
                # The service restarts: the job goes on meanwhile, and the sequence says where to resume.
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > _AWAY_SECONDS:
                    raise
                time.sleep(_AWAY_WAIT_SECONDS)

    def so_far(self) -> Iterator[Update]:
        """Yield the updates that the job has by now."""
        last = self.refresh().message.sequence
        for update in self.watch():
            yield update
            if update.sequence >= last:
                return

    def curves(self) -> pd.DataFrame:
        """Return the metrics told so far, a row a step and a column a metric: `job.curves().plot()` in a notebook.

        Steps that follow each other within half a second may be told as one, the last.
        """
        # Step 0 is no step: the scores at the end, say.
        rows = [{"step": update.step, **update.metrics} for update in self.so_far() if update.metrics and update.step]
        return pd.DataFrame(rows, columns=None if rows else ["step"]).set_index("step")

    def trials(self) -> pd.DataFrame:
        """Return one row a trial of a study: trial, job, state, seconds, its metrics, and what was searched over.

        Those of a study that still runs are those begun so far.
        """
        page = build(
            training_pb2.ListJobsRequest, page_size=1000, filter=f'study = "{self.name}"', order_by="create_time"
        )
        searched = _searched(self.message.spec.search, rows := _all_jobs(self.connection, page))
        frame = pd.DataFrame([_trial_row(job, searched) for job in rows if job.spec.trial])
        return frame if frame.empty else frame.set_index("trial").sort_index()

    def wait(self) -> "Job":
        """Show progress until the job ends; return it.

        Raises:
            JobFailed: it failed; the reason and message are the job's.
            Cancelled: it was stopped.
            Interrupted: Ctrl-C was pressed: the job continues, unless it is pressed once more at the prompt that a
                terminal shows.
        """
        with job_continues(self.name, self.cancel):
            with progress.share(f"{self.message.spec.family or 'evaluation'}") as show:
                for update in self.watch():
                    show(update.progress, update.message)
        return self.result()

    def result(self) -> "Job":
        """Return the job, asked anew how it stands.

        Raises:
            JobFailed: it failed; the reason and message are the job's.
            Cancelled: it was stopped.
        """
        self.refresh()
        if self.message.state == training_pb2.JOB_STATE_FAILED:
            raise errors.JobFailed(
                f"job {self.name} failed: {self.message.error_message}", reason=self.message.error_reason
            )
        if self.message.state == training_pb2.JOB_STATE_CANCELLED:
            raise errors.Cancelled(f"job {self.name} was cancelled")
        return self

    def __repr__(self) -> str:
        return f"Job({self.name}, {self.state}, {self.message.progress:.0%})"


def families(*, connection: Connection | None = None) -> pd.DataFrame:
    """Return one row a hyperparameter of each model family: family, hyperparameter, default, range, description."""
    connection = connection or current()
    answer = connection.training.ListFamilies(training_pb2.ListFamiliesRequest())
    rows = [
        (family.name, setting.name, setting.default, _range(setting), setting.description)
        for family in answer.families
        for setting in family.hyperparameters
    ]
    return pd.DataFrame(rows, columns=["family", "hyperparameter", "default", "range", "description"])


def state_name(state: "training_pb2.JobState.ValueType") -> str:
    """Return a state without its prefix: RUNNING."""
    return training_pb2.JobState.Name(state).removeprefix("JOB_STATE_")


def _all_jobs(connection: Connection, request: training_pb2.ListJobsRequest) -> list[training_pb2.Job]:
    found: list[training_pb2.Job] = []
    while True:
        page = connection.training.ListJobs(request)
        found += page.jobs
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


def _searched(search: training_pb2.Search, trials: Sequence[training_pb2.Job]) -> list[str]:
    """Return the hyperparameters that trials differ in, and those that were asked for."""
    settings = [trial.spec.hyperparameters for trial in trials if trial.spec.trial]
    names = {name for given in settings for name in given}
    return sorted(name for name in names if name in search.space or len({given[name] for given in settings}) > 1)


def _trial_row(job: training_pb2.Job, searched: Sequence[str]) -> dict[str, object]:
    seconds = (job.end_time.ToDatetime() - job.start_time.ToDatetime()).total_seconds()
    return {
        "trial": job.spec.trial,
        "job": job.name,
        # A trial that promised nothing is stopped by its study.
        "state": state_name(job.state),
        "seconds": seconds if job.HasField("end_time") and job.HasField("start_time") else None,
        **{metric.name: metric.value for metric in job.evaluation.metrics},
        **{name: json.loads(job.spec.hyperparameters[name]) for name in searched},
    }


_STATES = [name.removeprefix("JOB_STATE_") for name in training_pb2.JobState.keys() if "UNSPECIFIED" not in name]  # noqa: SIM118
_COLUMNS = [
    "name",
    "kind",
    "family",
    "model",
    "state",
    "progress",
    "version",
    "peak_mib",
    "core_seconds",
    "create_time",
]


def _row(job: training_pb2.Job) -> tuple[object, ...]:
    kind = training_pb2.JobKind.Name(job.spec.kind).removeprefix("JOB_KIND_").lower()
    created = job.create_time.ToDatetime()
    state = state_name(job.state)
    took = (job.usage.peak_memory_bytes >> 20, round(job.usage.core_seconds, 1))
    return (job.name, kind, job.spec.family, job.spec.model, state, job.progress, job.version, *took, created)


def _update(answer: training_pb2.WatchJobResponse) -> Update:
    metrics = {metric.name: metric.value for metric in answer.metrics}
    return Update(
        answer.sequence,
        state_name(answer.state),
        answer.progress,
        answer.message,
        answer.step,
        metrics,
        answer.time.ToDatetime(UTC),
        answer.usage.peak_memory_bytes,
        answer.usage.core_seconds,
    )


def _range(setting: training_pb2.Hyperparameter) -> str:
    if setting.choices:
        return ", ".join(setting.choices)
    least = f"{setting.minimum:g}" if setting.HasField("minimum") else ""
    most = f"{setting.maximum:g}" if setting.HasField("maximum") else ""
    return f"{least} .. {most}" if least or most else ""
