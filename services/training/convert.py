"""Between the contract's messages and the domain's types: pairs, pure, total."""

import json
from collections.abc import Mapping
from datetime import datetime

from lepton.v1 import common_pb2
from lepton.v1 import training_pb2 as pb
from servicekit.errors import InvalidArgument
from services.training.domain.families.catalog import Family
from services.training.domain.families.hyperparameters import Hyperparameter
from services.training.domain.jobs import Job, JobState, Outcome, Seen
from services.training.domain.problems import Problems

STATES: dict[JobState, "pb.JobState.ValueType"] = {
    JobState.QUEUED: pb.JOB_STATE_QUEUED,
    JobState.RUNNING: pb.JOB_STATE_RUNNING,
    JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
    JobState.FAILED: pb.JOB_STATE_FAILED,
    JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
}
_STATES_BACK = {number: state for state, number in STATES.items()}


def job_to_proto(job: Job, *, with_workspace: bool = False) -> pb.Job:
    """Return a job's message."""
    message = pb.Job(
        name=job.name,
        spec=pb.JobSpec.FromString(job.spec),
        state=STATES[job.state],
        progress=job.progress,
        message=job.message,
        metrics=metrics_to_proto(job.metrics),
        version=job.version,
        error_reason=job.error_reason,
        error_message=job.error_message,
        worker=job.worker,
        epoch=job.epoch,
        cancel_requested=job.cancel_requested,
        attempts=job.attempts,
        sequence=job.sequence,
        workspace=job.workspace if with_workspace else "",
        traceparent=job.traceparent,
        warnings=job.warnings,
        has_report=bool(job.report_object),
    )
    if job.evaluation:
        message.evaluation.ParseFromString(job.evaluation)
    if job.usage:
        message.usage.ParseFromString(job.usage)
    if job.checkpoint_time is not None:
        message.checkpoint.CopyFrom(checkpoint_to_proto(job, job.checkpoint_time))
    message.create_time.FromDatetime(job.create_time)
    if job.start_time is not None:
        message.start_time.FromDatetime(job.start_time)
    if job.end_time is not None:
        message.end_time.FromDatetime(job.end_time)
    return message


def checkpoint_to_proto(job: Job, kept: datetime) -> pb.Checkpoint:
    """Return what is known of a job's checkpoint, kept at a time."""
    message = pb.Checkpoint(size_bytes=job.checkpoint_bytes, sha256=job.checkpoint_sha256)
    message.create_time.FromDatetime(kept)
    return message


def update_to_proto(job: Job, metrics: Mapping[str, float], step: int, now: datetime) -> pb.WatchJobResponse:
    """Return the update that brought a job where it stands."""
    message = pb.WatchJobResponse(
        sequence=job.sequence,
        state=STATES[job.state],
        progress=job.progress,
        message=job.message,
        metrics=metrics_to_proto(metrics),
        step=step,
    )
    if job.usage:
        message.usage.ParseFromString(job.usage)
    message.time.FromDatetime(now)
    return message


def outcome_from_proto(request: pb.FinishJobRequest) -> Outcome:
    """Return how a job ended.

    Raises:
        InvalidArgument: the state is unknown.
    """
    if request.state not in _STATES_BACK:
        raise InvalidArgument("unknown job state", reason="BAD_STATE")
    evaluation = request.evaluation.SerializeToString() if request.HasField("evaluation") else b""
    return Outcome(
        _STATES_BACK[request.state],
        request.version,
        evaluation,
        request.error_reason,
        request.error_message,
        seen_from_proto(request),
    )


def seen_from_proto(told: pb.ReportJobRequest | pb.FinishJobRequest) -> Seen:
    """Return what a worker saw of a job beside its progress."""
    usage = told.usage.SerializeToString() if told.HasField("usage") else b""
    return Seen(usage, tuple(told.warnings))


def metrics_to_proto(metrics: Mapping[str, float]) -> list[common_pb2.Metric]:
    """Return metrics as messages, by name."""
    return [common_pb2.Metric(name=name, value=value) for name, value in sorted(metrics.items())]


def metrics_from_proto(messages: "list[common_pb2.Metric]") -> dict[str, float]:
    """Return metrics by name."""
    return {message.name: message.value for message in messages}


def hyperparameters_from_proto(values: Mapping[str, str]) -> dict[str, object]:
    """Return hyperparameters from their JSON texts.

    Raises:
        InvalidArgument: a value is no JSON.
    """
    found: dict[str, object] = {}
    problems = Problems()
    for name, text in values.items():
        try:
            found[name] = json.loads(text)
        except (ValueError, RecursionError):
            description = f"hyperparameter {name!r} is no JSON value: {text[:100]!r}; a text needs quotes"
            problems.add(f"spec.hyperparameters[{name!r}]", description, "BAD_HYPERPARAMETER")
    problems.refuse()
    return found


def family_to_proto(family: Family) -> pb.Family:
    """Return a family's message."""
    return pb.Family(
        name=family.name,
        description=family.description,
        tasks=family.tasks,
        hyperparameters=[_hyperparameter_to_proto(setting) for setting in family.hyperparameters],
    )


def _hyperparameter_to_proto(setting: Hyperparameter) -> pb.Hyperparameter:
    return pb.Hyperparameter(
        name=setting.name,
        description=setting.description,
        default=json.dumps(setting.default),
        minimum=setting.minimum,
        maximum=setting.maximum,
        choices=setting.choices,
    )
