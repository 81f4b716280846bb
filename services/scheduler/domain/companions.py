"""Versions that stand beside a deployment's own: those of a split, a canary, a shadow, and a standby.

They go where the deployment's own version goes, come after every floor, and leave before any request could notice. A
standby is never placed: it is the former version, which stays as long as nobody wants its room.
"""

from services.scheduler.domain.board import Board
from services.scheduler.domain.cluster import (
    Cause,
    DeploymentKey,
    ReplicaPlacement,
    WantedDeployment,
    Worker,
    WorkerKind,
)
from services.scheduler.domain.routing import Role

# They never answer in another version's stead.
_SILENT = (Role.CANARY, Role.SHADOW)


def accompany(board: Board, wanted: dict[DeploymentKey, WantedDeployment]) -> None:
    """Place companions beside their deployment's own version, where there is room."""
    for owner in sorted(wanted):
        own = wanted[owner].key
        for companion in wanted[owner].companions:
            for worker in board.active(WorkerKind.INFERENCE):
                is_due = board.holds(worker.name, own) and not board.holds(worker.name, companion.key)
                if companion.routing.role is Role.STANDBY or not is_due:
                    continue
                if make_room(board, wanted, worker, companion):
                    board.place_replica(worker.name, companion, Cause.COMPANION)


def make_room(
    board: Board, wanted: dict[DeploymentKey, WantedDeployment], worker: Worker, deployment: WantedDeployment
) -> bool:
    """Return whether a replica fits on a worker, removing standbys there, the largest first, where it takes that."""
    leaving: list[ReplicaPlacement] = []
    standbys = [p for p in board.replicas_on(worker.name) if is_idle_standby(board, wanted[p.key.owner], p)]
    standbys.sort(key=lambda p: (p.resources.share_of(worker.capacity), p.key))
    while not board.with_replica(worker, deployment, [p.key for p in leaving]).fits(worker.capacity):
        if not standbys:
            return False
        leaving.append(standbys.pop())
    for placement in leaving:
        board.remove_replica(placement, Cause.MAKE_ROOM)
    return True


def is_idle_standby(board: Board, deployment: WantedDeployment, placement: ReplicaPlacement) -> bool:
    """Return whether a replica is a standby that nobody is answered by."""
    companion = deployment.companion(placement.key)
    return companion is not None and companion.routing.role is Role.STANDBY and may_leave(board, deployment, placement)


def may_leave(board: Board, deployment: WantedDeployment, placement: ReplicaPlacement) -> bool:
    """Return whether a companion may leave its worker at once: another version answers in its stead there."""
    companion = deployment.companion(placement.key)
    if companion is None:
        return False
    if not placement.may_serve:
        return True
    is_standby = companion.routing.role is Role.STANDBY
    return any(
        p.serves and (p.key == deployment.key or (not is_standby and p.routing.role in (Role.SERVING, Role.STANDBY)))
        for p in board.replicas_on(placement.worker)
        if p.key.owner == placement.key.owner and p.key != placement.key
    )


def falls_silent(board: Board, placement: ReplicaPlacement, version: WantedDeployment) -> bool:
    """Return whether a replica would answer for nobody any more while no other one answers for its deployment yet."""
    if version.routing.role not in _SILENT or placement.routing.role in _SILENT or not placement.may_serve:
        return False
    return not any(
        p.serves and p.routing.role not in _SILENT
        for p in board.replicas_of(placement.key.owner)
        if (p.worker, p.key) != (placement.worker, placement.key)
    )


def stands_by_here(board: Board, deployment: WantedDeployment, placement: ReplicaPlacement) -> bool:
    """Return whether the deployment's standby serves on a placement's worker: it answers rather than older versions."""
    return any(
        p.serves and p.is_standby and deployment.companion(p.key) is not None
        for p in board.replicas_on(placement.worker)
        if p.key.owner == placement.key.owner and p.key != placement.key
    )
