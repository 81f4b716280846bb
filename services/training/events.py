"""The facts that the training service publishes."""

from google.protobuf.message import Message

from lepton.v1 import events_pb2
from lepton.v1 import training_pb2 as pb
from services.training.convert import job_to_proto
from services.training.domain.jobs import Job, JobState

PROGRESSED = "training.job.progressed"


def fact_of(job: Job) -> tuple[str, Message]:
    """Return the subject and payload of a job's new state."""
    message = job_to_proto(job)
    facts: dict[JobState, tuple[str, Message]] = {
        JobState.QUEUED: ("training.job.queued", events_pb2.JobQueued(job=message)),
        JobState.RUNNING: ("training.job.started", events_pb2.JobStarted(job=message)),
        JobState.SUCCEEDED: ("training.job.succeeded", events_pb2.JobSucceeded(job=message)),
        JobState.FAILED: ("training.job.failed", events_pb2.JobFailed(job=message)),
        JobState.CANCELLED: ("training.job.cancelled", events_pb2.JobCancelled(job=message)),
    }
    return facts[job.state]


def progress_fact(job: Job, update: pb.WatchJobResponse) -> events_pb2.JobProgressed:
    """Return the fact that a job got on."""
    return events_pb2.JobProgressed(job=job.name, update=update)
