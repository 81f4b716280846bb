"""Moving replicas from busy workers to idle ones, without ever going back and forth."""

from services.scheduler.domain.board import Board
from services.scheduler.domain.cluster import (
    Cause,
    DeploymentKey,
    PlaceJob,
    RemoveJob,
    ReplicaPlacement,
    ReplicaState,
    WantedDeployment,
    Worker,
    WorkerKind,
)


def balance(board: Board, wanted: dict[DeploymentKey, WantedDeployment]) -> None:
    """Begin a few moves where two workers differ by more than the threshold.

    A move places the replica on the idle worker; a later round removes the first one once that serves. Nothing begins
    while any replica is under way, so that a round sees the whole effect of the one before.
    """
    if not _is_calm(board, wanted):
        return
    scores = {worker.name: board.score(worker) for worker in board.active(WorkerKind.INFERENCE)}
    for _ in range(board.cluster.policy.moves_per_round):
        if not _move_one(board, wanted, scores):
            return


def _is_calm(board: Board, wanted: dict[DeploymentKey, WantedDeployment]) -> bool:
    if any(not isinstance(move, PlaceJob | RemoveJob) for move in board.moves):
        return False
    settled = (ReplicaState.READY, ReplicaState.FAILED)
    placements = board.replicas()
    if any(p.state not in settled or not board.is_active(p.worker) for p in placements):
        return False
    return all(p.key == wanted[p.key.owner].key for p in placements)


def _move_one(board: Board, wanted: dict[DeploymentKey, WantedDeployment], scores: dict[str, float]) -> bool:
    """Begin the first move that helps, from the busiest worker to the idlest; return whether there was one."""
    busiest_first = sorted(scores, key=lambda name: (-scores[name], name))
    for source in busiest_first:
        for target in reversed(busiest_first):
            if scores[source] - scores[target] <= board.cluster.policy.threshold:
                break
            for placement in board.replicas_on(source):
                if _try_move(board, wanted[placement.key.owner], placement, target, scores):
                    return True
    return False


def _try_move(
    board: Board, deployment: WantedDeployment, placement: ReplicaPlacement, target: str, scores: dict[str, float]
) -> bool:
    policy = board.cluster.policy
    source_worker, target_worker = board.workers[placement.worker], board.workers[target]
    young = board.cluster.now - placement.placed_at < policy.residency_seconds
    # One move a deployment and round: a second one would leave it between three workers.
    moving = any(p.state is not ReplicaState.READY for p in board.replicas_of(placement.key.owner))
    if young or moving or board.holds(target, placement.key):
        return False
    if not board.with_replica(target_worker, deployment).fits(target_worker.capacity):
        return False
    source_after = scores[placement.worker] - _weight(board, placement, source_worker, source_worker)
    target_after = scores[target] + _weight(board, placement, source_worker, target_worker)
    if max(source_after, target_after) >= scores[placement.worker] - policy.margin:
        return False
    board.place_replica(target, deployment, Cause.BALANCE)
    scores[placement.worker], scores[target] = source_after, target_after
    return True


def _weight(board: Board, placement: ReplicaPlacement, source: Worker, on: Worker) -> float:
    """Return what a replica adds to a worker's score: its declared share, and its part of the measured utilisation.

    The utilisation of the worker that it stands on is attributed to replicas by their declared cores.
    """
    declared = placement.resources.share_of(on.capacity)
    used = board.used(source.name).cores
    if used <= 0 or on.capacity.cores <= 0:
        return declared
    busy_cores = source.load.cpu_utilization * source.capacity.cores * placement.resources.cores / used
    return declared + busy_cores / on.capacity.cores
