"""The facts that the scheduler publishes, and the subjects that it follows."""

from collections.abc import Sequence

from lepton.v1 import events_pb2
from services.scheduler.domain.cluster import JobKey, ReplicaKey

# Workers serve all workspaces: their facts belong to none of them.
WORKSPACE = "platform"

WORKER_JOINED = "scheduler.worker.joined"
WORKER_LOST = "scheduler.worker.lost"
PLACEMENT_CHANGED = "scheduler.placement.changed"

DEPLOYMENT_CHANGED = "inference.deployment.changed"
JOB_QUEUED = "training.job.queued"
JOB_STARTED = "training.job.started"
JOB_ENDED = ("training.job.succeeded", "training.job.failed", "training.job.cancelled")
FOLLOWED = (DEPLOYMENT_CHANGED, JOB_QUEUED, JOB_STARTED, *JOB_ENDED)

REPORTS = "lepton-reports.*"


def worker_joined(worker: str, epoch: int) -> events_pb2.WorkerJoined:
    """A worker got a lease."""
    return events_pb2.WorkerJoined(worker=worker, epoch=epoch)


def worker_lost(worker: str, epoch: int) -> events_pb2.WorkerLost:
    """A worker's lease lapsed."""
    return events_pb2.WorkerLost(worker=worker, epoch=epoch)


def placement_changed(
    worker: str, replicas: Sequence[ReplicaKey], jobs: Sequence[JobKey]
) -> events_pb2.PlacementChanged:
    """A worker's desired state changed."""
    return events_pb2.PlacementChanged(
        worker=worker,
        replicas=[f"{key.workspace}/{key.deployment}@{key.number}" for key in replicas],
        jobs=[f"{key.workspace}/{key.job}" for key in jobs],
    )
