"""Moving replicas from busy workers to idle ones, without ever going back and forth."""

from dataclasses import dataclass, replace

from services.scheduler.domain.board import Board, shared
from services.scheduler.domain.cluster import (
    Cause,
    DeploymentKey,
    PlaceJob,
    RemoveJob,
    ReplicaPlacement,
    ReplicaState,
    Resources,
    WantedDeployment,
    Worker,
    WorkerKind,
)
from services.scheduler.domain.routing import Role


@dataclass
class _Standing:
    """A worker as it would stand after the moves begun so far.

    Args:
        worker: the worker.
        used: what its placements take.
        busy_cores: cores that it is measured to use.
    """

    worker: Worker
    used: Resources
    busy_cores: float

    @property
    def score(self) -> float:
        """Its dominant share plus its processor utilisation."""
        cores = self.worker.capacity.cores
        return self.used.share_of(self.worker.capacity) + (self.busy_cores / cores if cores > 0 else 0.0)


def balance(board: Board, wanted: dict[DeploymentKey, WantedDeployment]) -> None:
    """Begin a few moves where two workers differ by more than the threshold.

    A move places the replica on the idle worker; a later round removes the first one once that serves. Nothing begins
    while any replica is under way, so that a round sees the whole effect of the one before.
    """
    if not _is_calm(board, wanted):
        return
    standings = [
        _Standing(worker, board.used(worker.name), worker.load.cpu_utilization * worker.capacity.cores)
        for worker in board.active(WorkerKind.INFERENCE)
    ]
    for _ in range(board.cluster.policy.moves_per_round):
        if not _move_one(board, wanted, standings):
            return


def _is_calm(board: Board, wanted: dict[DeploymentKey, WantedDeployment]) -> bool:
    if any(not isinstance(move, PlaceJob | RemoveJob) for move in board.moves):
        return False
    settled = (ReplicaState.READY, ReplicaState.FAILED)
    placements = board.replicas()
    if any(p.state not in settled or not board.is_active(p.worker) for p in placements):
        return False
    return all(p.key == wanted[p.key.owner].key or wanted[p.key.owner].companion(p.key) for p in placements)


def _move_one(board: Board, wanted: dict[DeploymentKey, WantedDeployment], standings: list[_Standing]) -> bool:
    """Begin the first move that helps, from the busiest worker to the idlest; return whether there was one."""
    busiest_first = sorted(standings, key=lambda standing: (-standing.score, standing.worker.name))
    for source in busiest_first:
        for target in reversed(busiest_first):
            if source.score - target.score <= board.cluster.policy.threshold:
                break
            for placement in board.replicas_on(source.worker.name):
                if _try_move(board, wanted[placement.key.owner], placement, source, target):
                    return True
    return False


def _try_move(
    board: Board, deployment: WantedDeployment, placement: ReplicaPlacement, source: _Standing, target: _Standing
) -> bool:
    policy = board.cluster.policy
    if placement.key != deployment.key or any(item.routing.role is not Role.STANDBY for item in deployment.companions):
        # A release is no time to move: its versions are compared where they stand.
        return False
    young = board.cluster.now - placement.placed_at < policy.residency_seconds
    # One move a deployment and round: a second one would leave it between three workers.
    own = [p for p in board.replicas_of(placement.key.owner) if p.key == deployment.key]
    moving = any(p.state is not ReplicaState.READY for p in own)
    if young or moving or board.holds(target.worker.name, placement.key):
        return False
    # A standby is left behind, and leaves.
    here = [p for p in board.replicas_on(placement.worker) if p.key.owner == placement.key.owner]
    leaving, coming = shared(p.resources for p in here), deployment.resources
    if not (target.used + coming).fits(target.worker.capacity):
        return False
    # What was measured is attributed to replicas by their declared cores.
    busy_cores = source.busy_cores * leaving.cores / source.used.cores if source.used.cores > 0 else 0.0
    source_after = replace(source, used=source.used - leaving, busy_cores=source.busy_cores - busy_cores)
    target_after = replace(target, used=target.used + coming, busy_cores=target.busy_cores + busy_cores)
    if max(source_after.score, target_after.score) >= source.score - policy.margin:
        return False
    board.place_replica(target.worker.name, deployment, Cause.BALANCE)
    source.used, source.busy_cores = source_after.used, source_after.busy_cores
    target.used, target.busy_cores = target_after.used, target_after.busy_cores
    return True
