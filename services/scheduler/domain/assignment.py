"""Desired state of a worker, and what a worker reports of itself."""

from dataclasses import dataclass, field

from services.scheduler.domain.cluster import (
    JobPlacement,
    Load,
    ReplicaKey,
    ReplicaPlacement,
    ReplicaState,
    Worker,
)


@dataclass(frozen=True)
class Assignment:
    """What one worker is to hold and run; see lepton.v1.Assignment."""

    worker: str
    worker_epoch: int
    leader_epoch: int
    replicas: tuple[ReplicaPlacement, ...] = ()
    jobs: tuple[JobPlacement, ...] = ()
    draining: bool = False


@dataclass(frozen=True)
class ReportedReplica:
    """What a worker says of a replica: where it stands, why, the execution provider it took, and which placement's."""

    state: ReplicaState
    message: str = ""
    provider: str = ""
    epoch: int = 0


@dataclass(frozen=True)
class Report:
    """What a worker says of itself once a second."""

    worker: str
    epoch: int
    load: Load = field(default_factory=Load)
    replicas: dict[ReplicaKey, ReportedReplica] = field(default_factory=dict)


@dataclass(frozen=True)
class Stored:
    """All that the scheduler's database holds of the cluster."""

    workers: dict[str, Worker] = field(default_factory=dict)
    replicas: tuple[ReplicaPlacement, ...] = ()
    jobs: tuple[JobPlacement, ...] = ()


@dataclass(frozen=True)
class Leadership:
    """The leader's row.

    Args:
        holder: who leads; empty where nobody does.
        epoch: the epoch of that leadership.
        beat: changes while the leader lives.
    """

    holder: str
    epoch: int
    beat: int
