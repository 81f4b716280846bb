"""The planner's scratch pad: who holds what while a plan is made, and the moves so far."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace

from services.scheduler.domain.cluster import (
    Cause,
    Cluster,
    DeploymentKey,
    JobKey,
    JobPlacement,
    Move,
    PlaceJob,
    PlaceReplica,
    RemoveJob,
    RemoveReplica,
    ReplicaKey,
    ReplicaPlacement,
    ReplicaState,
    Resources,
    WantedDeployment,
    WantedJob,
    Worker,
    WorkerKind,
    WorkerState,
)


def shared(parts: Iterable[Resources]) -> Resources:
    """Return what the versions of one deployment take on one worker, together.

    Memory adds up. Cores and accelerators do not: while one version hands over to the next, only one of them takes
    requests, and a worker that is full could never change a version otherwise.
    """
    cores, memory_bytes, gpus = 0.0, 0, 0.0
    for part in parts:
        cores, memory_bytes, gpus = max(cores, part.cores), memory_bytes + part.memory_bytes, max(gpus, part.gpus)
    return Resources(cores, memory_bytes, gpus)


class Board:
    """Placements as they would stand after the moves so far.

    Args:
        cluster: what is; it is not changed.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.moves: list[Move] = []
        self.workers = {worker.name: worker for worker in sorted(cluster.workers, key=lambda worker: worker.name)}
        self._replicas: dict[str, dict[ReplicaKey, ReplicaPlacement]] = defaultdict(dict)
        self._jobs: dict[str, dict[JobKey, JobPlacement]] = defaultdict(dict)
        self._holders: dict[DeploymentKey, dict[tuple[str, ReplicaKey], ReplicaPlacement]] = defaultdict(dict)
        self._used: dict[str, Resources] = {}
        for placement in cluster.replica_placements:
            self._put(placement)
        for job in cluster.job_placements:
            self._jobs[job.worker][job.key] = job

    def active(self, kind: WorkerKind) -> list[Worker]:
        """Return the workers of a kind that take work, by name."""
        return [w for w in self.workers.values() if w.kind is kind and w.state is WorkerState.ACTIVE]

    def is_active(self, worker: str) -> bool:
        """Return whether a worker takes work."""
        return worker in self.workers and self.workers[worker].state is WorkerState.ACTIVE

    def replicas(self) -> list[ReplicaPlacement]:
        """Return all replica placements, by worker and key."""
        return [held[key] for _, held in sorted(self._replicas.items()) for key in sorted(held)]

    def replicas_on(self, worker: str) -> list[ReplicaPlacement]:
        """Return a worker's replica placements, by key."""
        held = self._replicas.get(worker, {})
        return [held[key] for key in sorted(held)]

    def replicas_of(self, owner: DeploymentKey) -> list[ReplicaPlacement]:
        """Return a deployment's placements, all versions, by worker and key."""
        held = self._holders.get(owner, {})
        return [held[place] for place in sorted(held)]

    def holds(self, worker: str, key: ReplicaKey) -> bool:
        """Return whether a worker is to hold a version."""
        return key in self._replicas.get(worker, {})

    def jobs(self) -> list[JobPlacement]:
        """Return all job placements, by worker and key."""
        return [held[key] for _, held in sorted(self._jobs.items()) for key in sorted(held)]

    def used(self, worker: str) -> Resources:
        """Return what a worker's placements take."""
        if worker not in self._used:
            groups: dict[DeploymentKey, list[Resources]] = defaultdict(list)
            for placement in self.replicas_on(worker):
                groups[placement.key.owner].append(placement.resources)
            total = sum((shared(group) for group in groups.values()), Resources())
            self._used[worker] = sum((job.resources for job in self._jobs.get(worker, {}).values()), total)
        return self._used[worker]

    def score(self, worker: Worker) -> float:
        """Return how busy a worker is: its dominant share plus its processor utilisation (0 to 2)."""
        return self.used(worker.name).share_of(worker.capacity) + worker.load.utilization

    def with_replica(self, worker: Worker, wanted: WantedDeployment, without: Collection[ReplicaKey] = ()) -> Resources:
        """Return what a worker's placements would take with a replica more, and without some that it holds."""
        owners = {wanted.key.owner} | {key.owner for key in without}
        held = [p for p in self._replicas.get(worker.name, {}).values() if p.key.owner in owners]
        total = self.used(worker.name)
        for owner in owners:
            before = [p.resources for p in held if p.key.owner == owner]
            after = [p.resources for p in held if p.key.owner == owner and p.key not in without and p.key != wanted.key]
            if owner == wanted.key.owner:
                after.append(wanted.resources)
            total = total - shared(before) + shared(after)
        return total

    def place_replica(self, worker: str, wanted: WantedDeployment, cause: Cause) -> None:
        """Let a worker hold a replica, or hold it with what it declares now."""
        old = self._replicas.get(worker, {}).get(wanted.key)
        placed = ReplicaPlacement(
            worker,
            wanted.key,
            wanted.resources,
            wanted.digest,
            wanted.aliases,
            placed_at=self.cluster.now,
            state=ReplicaState.PLACED,
            routing=wanted.routing,
        )
        if old is not None:
            placed = replace(placed, epoch=old.epoch, placed_at=old.placed_at, state=old.state)
        self._put(placed)
        self.moves.append(PlaceReplica(worker, wanted, cause))

    def remove_replica(self, placement: ReplicaPlacement, cause: Cause) -> None:
        """Let a worker hold a replica no longer."""
        del self._replicas[placement.worker][placement.key]
        del self._holders[placement.key.owner][placement.worker, placement.key]
        self._used.pop(placement.worker, None)
        self.moves.append(RemoveReplica(placement.worker, placement.key, cause))

    def place_job(self, worker: str, wanted: WantedJob, cause: Cause) -> None:
        """Let a worker run a job."""
        placed = JobPlacement(worker, wanted.key, wanted.resources, placed_at=self.cluster.now)
        self._jobs[worker][wanted.key] = placed
        self._used.pop(worker, None)
        self.moves.append(PlaceJob(worker, wanted, cause))

    def remove_job(self, placement: JobPlacement, cause: Cause) -> None:
        """Let a worker run a job no longer."""
        del self._jobs[placement.worker][placement.key]
        self._used.pop(placement.worker, None)
        self.moves.append(RemoveJob(placement.worker, placement.key, cause))

    def _put(self, placement: ReplicaPlacement) -> None:
        self._replicas[placement.worker][placement.key] = placement
        self._holders[placement.key.owner][placement.worker, placement.key] = placement
        self._used.pop(placement.worker, None)
