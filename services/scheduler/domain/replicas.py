"""Where replicas go: floors first, then companions, then cover, then what is superseded or leaves, then balance.

The order of phases is what keeps the plan calm: a phase never undoes what an earlier one needs, so applying plans again
and again ends in one that has no moves.
"""

from collections.abc import Sequence
from dataclasses import replace

from services.scheduler.domain.balance import balance
from services.scheduler.domain.board import Board
from services.scheduler.domain.cluster import (
    Cause,
    DeploymentKey,
    Reason,
    ReplicaKey,
    ReplicaPlacement,
    ReplicaState,
    Resources,
    Unplaced,
    WantedDeployment,
    Worker,
    WorkerKind,
    WorkerState,
)
from services.scheduler.domain.companions import (
    accompany,
    falls_silent,
    is_idle_standby,
    make_room,
    may_leave,
    stands_by_here,
)

_STARTING = (ReplicaState.PLACED, ReplicaState.LOADING)


def plan_replicas(board: Board) -> list[Unplaced]:
    """Put the replica moves of one round on the board; return what has no place."""
    wanted = {deployment.key.owner: deployment for deployment in board.cluster.deployments}
    _drop(board, wanted)
    for owner in sorted(wanted):
        _refresh(board, wanted[owner])
    unplaced = _fill_floors(board, wanted)
    accompany(board, wanted)
    if board.cluster.policy.cover:
        _cover(board, wanted)
    for owner in sorted(wanted):
        _retire(board, wanted, wanted[owner])
        _empty_draining(board, wanted[owner])
    if not board.cluster.policy.cover:
        for owner in sorted(wanted):
            _trim(board, wanted[owner])
        balance(board, wanted)
    return unplaced


def current(board: Board, wanted: WantedDeployment) -> list[ReplicaPlacement]:
    """Return the placements that count: as wanted now, on workers that take work, not failed."""
    return [
        placement
        for placement in board.replicas_of(wanted.key.owner)
        if _is_current(board, wanted, placement) and placement.state is not ReplicaState.FAILED
    ]


def _is_current(board: Board, wanted: WantedDeployment, placement: ReplicaPlacement) -> bool:
    as_wanted = placement.key == wanted.key and wanted.is_met_by(placement.resources)
    return as_wanted and board.is_active(placement.worker)


def _ready(placements: Sequence[ReplicaPlacement]) -> int:
    return sum(placement.serves for placement in placements)


def _enough(board: Board, wanted: WantedDeployment) -> bool:
    """Return whether as many replicas as can be had of the wanted version serve: then others may go."""
    here = current(board, wanted)
    return len(here) > 0 and _ready(here) >= min(wanted.replicas, len(here))


def _drop(board: Board, wanted: dict[DeploymentKey, WantedDeployment]) -> None:
    """Remove what stands on workers that are gone, what nobody wants, and old versions that answer nobody."""
    for placement in board.replicas():
        worker = board.workers.get(placement.worker)
        deployment = wanted.get(placement.key.owner)
        if worker is None or worker.state is WorkerState.LOST or worker.kind is not WorkerKind.INFERENCE:
            board.remove_replica(placement, Cause.WORKER_LOST)
        elif deployment is None:
            board.remove_replica(placement, Cause.UNWANTED)
        elif placement.key == deployment.key or deployment.companion(placement.key) is not None:
            continue
        elif not placement.may_serve or (
            board.is_active(placement.worker) and stands_by_here(board, deployment, placement)
        ):
            board.remove_replica(placement, Cause.SUPERSEDED)


def _refresh(board: Board, wanted: WantedDeployment) -> None:
    """Tell workers of changed aliases and shares, and of changed resources where these fit."""
    for placement in board.replicas_of(wanted.key.owner):
        version = wanted if placement.key == wanted.key else wanted.companion(placement.key)
        if version is None:
            continue
        worker = board.workers[placement.worker]
        grows = board.is_active(worker.name) and board.with_replica(worker, version).fits(worker.capacity)
        changed = version if grows else replace(version, resources=placement.resources)
        if falls_silent(board, placement, version):
            # It answers for the deployment until another one does.
            changed = replace(changed, routing=placement.routing)
        same = placement.resources == changed.resources and placement.aliases == changed.aliases
        if not same or placement.digest != changed.digest or placement.routing != changed.routing:
            board.place_replica(worker.name, changed, Cause.CHANGED)


def _fill_floors(board: Board, wanted: dict[DeploymentKey, WantedDeployment]) -> list[Unplaced]:
    """Place the replicas that deployments ask for: every deployment's first one before anybody's second."""
    missing: dict[DeploymentKey, int] = {}
    # A deployment without any replica goes first: one that has served before one that never did, then by name.
    ranked = sorted(
        (rank, not deployment.has_served, owner)
        for owner, deployment in wanted.items()
        for rank in range(len(current(board, deployment)), deployment.replicas)
    )
    for _, _, owner in ranked:
        # Once one replica found no place, the next one of the same deployment cannot either.
        if owner in missing or not _place_one(board, wanted, wanted[owner]):
            missing[owner] = missing.get(owner, 0) + 1
    return [_explain(board, wanted[owner], count) for owner, count in sorted(missing.items())]


def _place_one(board: Board, wanted: dict[DeploymentKey, WantedDeployment], deployment: WantedDeployment) -> bool:
    candidates = _candidates(board, deployment)
    fitting = [worker for worker in candidates if board.with_replica(worker, deployment).fits(worker.capacity)]
    if not fitting and deployment.squeezed != deployment:
        return _place_one(board, wanted, deployment.squeezed)
    if fitting:
        best = min(fitting, key=lambda worker: _preference(board, worker, deployment))
        board.place_replica(best.name, deployment, Cause.WANTED)
        return True
    evictions = [
        (len(victims), worker.name, victims)
        for worker in candidates
        if (victims := _victims(board, wanted, deployment, worker)) is not None
    ]
    if not evictions:
        return False
    _, name, victims = min(evictions, key=lambda eviction: eviction[:2])
    for victim in victims:
        own = victim.key.owner == deployment.key.owner
        board.remove_replica(victim, Cause.SUPERSEDED if own else Cause.MAKE_ROOM)
    board.place_replica(name, deployment, Cause.WANTED)
    return True


def _candidates(board: Board, deployment: WantedDeployment) -> list[Worker]:
    return [worker for worker in board.active(WorkerKind.INFERENCE) if not board.holds(worker.name, deployment.key)]


def _preference(board: Board, worker: Worker, deployment: WantedDeployment) -> tuple[bool, float, str]:
    """Return the sort key of a worker for a replica: accelerators are kept for who needs them, then the least busy."""
    after = board.with_replica(worker, deployment).share_of(worker.capacity) + worker.load.utilization
    wastes_gpus = deployment.resources.gpus == 0 and worker.capacity.gpus > 0
    return wastes_gpus, after, worker.name


def _victims(
    board: Board, wanted: dict[DeploymentKey, WantedDeployment], deployment: WantedDeployment, worker: Worker
) -> list[ReplicaPlacement] | None:
    """Return what may leave a worker so that a replica fits there; None where that is not enough."""
    if not deployment.resources.fits(worker.capacity):
        return None
    spare = [p for p in board.replicas_on(worker.name) if _is_spare(board, wanted, deployment, p)]
    spare.sort(
        key=lambda p: (
            not is_idle_standby(board, wanted[p.key.owner], p),
            -p.resources.share_of(worker.capacity),
            p.key,
        )
    )
    victims: list[ReplicaPlacement] = []
    for placement in spare:
        victims.append(placement)
        if board.with_replica(worker, deployment, [p.key for p in victims]).fits(worker.capacity):
            return _fewest(board, deployment, worker, victims)
    return None


def _fewest(
    board: Board, deployment: WantedDeployment, worker: Worker, victims: list[ReplicaPlacement]
) -> list[ReplicaPlacement]:
    for placement in list(victims):
        others = [p for p in victims if p is not placement]
        if board.with_replica(worker, deployment, [p.key for p in others]).fits(worker.capacity):
            victims = others
    return victims


def _is_spare(
    board: Board,
    wanted: dict[DeploymentKey, WantedDeployment],
    deployment: WantedDeployment,
    placement: ReplicaPlacement,
) -> bool:
    """Return whether a replica may leave at once for one that a deployment asks for."""
    other = wanted[placement.key.owner]
    if other.companion(placement.key) is not None and board.holds(placement.worker, other.key):
        return may_leave(board, other, placement)
    if placement.key.owner == deployment.key.owner:
        return may_leave(board, other, placement) or _may_roll(board, deployment, placement)
    here = current(board, other)
    if len([p for p in here if p.worker != placement.worker]) < other.replicas:
        return False
    if not _is_current(board, other, placement):
        # Its successor stands elsewhere in full number, failed or not: the marker of a failed load may go.
        return placement.state is ReplicaState.FAILED
    return not placement.may_serve or _ready([p for p in here if p.worker != placement.worker]) >= 1


def _may_roll(board: Board, deployment: WantedDeployment, placement: ReplicaPlacement) -> bool:
    """Return whether an old version may leave a full worker before the new one serves there.

    One worker at a time, and only while another one serves the deployment.
    """
    if placement.key == deployment.key and deployment.is_met_by(placement.resources):
        return False
    others = [p for p in board.replicas_of(deployment.key.owner) if p.worker != placement.worker]
    starting = any(p.state in _STARTING for p in current(board, deployment))
    return not placement.may_serve or (not starting and any(p.serves for p in others))


def _explain(board: Board, deployment: WantedDeployment, missing: int) -> Unplaced:
    workers = board.active(WorkerKind.INFERENCE)
    needs = _needs(deployment.resources)
    large = [worker for worker in workers if deployment.resources.fits(worker.capacity)]
    if not workers:
        reason, message = Reason.NO_WORKER, "no inference worker is active: start one"
    elif not large:
        reason, message = Reason.TOO_LARGE, f"no inference worker is large enough for {needs}: ask for less"
    elif all(board.holds(worker.name, deployment.key) for worker in large):
        failed = any(p.state is ReplicaState.FAILED for p in board.replicas_of(deployment.key.owner))
        reason = Reason.LOAD_FAILED if failed else Reason.FEWER_WORKERS
        message = (
            f"{missing} more of {deployment.replicas} replicas need a worker each, and {len(large)} fit: add workers"
        )
        if failed:
            message = "every worker that has room failed to load it"
    else:
        free = [worker for worker in large if not board.holds(worker.name, deployment.key)]
        reason, message = Reason.NO_ROOM, _shortage(board, deployment, free)
    return Unplaced(deployment.key.owner, missing, reason, message)


def _shortage(board: Board, deployment: WantedDeployment, workers: Sequence[Worker]) -> str:
    """Return what the workers lack, by the one that lacks least."""

    def lacking(worker: Worker) -> Resources:
        over = board.with_replica(worker, deployment) - worker.capacity
        return Resources(max(over.cores, 0.0), max(over.memory_bytes, 0), max(over.gpus, 0.0))

    best = min(workers, key=lambda worker: (lacking(worker).share_of(worker.capacity), worker.name))
    missing, needed = lacking(best), deployment.resources
    parts = [
        f"{missing.cores:.3g} of {needed.cores:g} cores" if missing.cores > 0 else "",
        f"{_mib(missing.memory_bytes)} of {_mib(needed.memory_bytes)} MiB memory" if missing.memory_bytes else "",
        f"{missing.gpus:.3g} of {needed.gpus:g} GPUs" if missing.gpus > 0 else "",
    ]
    what = " and ".join(part for part in parts if part)
    return (
        f"no inference worker has room: {best.name}, the closest of {len(workers)}, lacks {what}; add workers, ask for "
        "less, or delete a deployment"
    )


def _mib(size_bytes: int) -> int:
    return -(-size_bytes // (1 << 20))


def _needs(resources: Resources) -> str:
    gpus = f", {resources.gpus:g} GPUs" if resources.gpus else ""
    return f"{resources.cores:g} cores, {resources.memory_bytes / (1 << 20):.0f} MiB{gpus}"


def _cover(board: Board, wanted: dict[DeploymentKey, WantedDeployment]) -> None:
    """Give every active worker every deployment that fits there: workers share a port and cannot forward yet."""
    for worker in board.active(WorkerKind.INFERENCE):
        for owner in sorted(wanted, key=lambda owner: (len(current(board, wanted[owner])), owner)):
            deployment = wanted[owner]
            missing = not board.holds(worker.name, deployment.key)
            if missing and make_room(board, wanted, worker, deployment):
                board.place_replica(worker.name, deployment, Cause.COVER)


def _retire(board: Board, wanted: dict[DeploymentKey, WantedDeployment], deployment: WantedDeployment) -> None:
    """Remove old versions from active workers once the wanted one serves in their stead."""
    for placement in board.replicas_of(deployment.key.owner):
        if _is_current(board, deployment, placement) or not board.is_active(placement.worker):
            continue
        successor = _held(board, placement.worker, deployment.key)
        if successor is not None and deployment.companion(placement.key) is not None:
            continue
        if placement.key == deployment.key:
            # The same version that may not grow here: it stays unless enough others are as wanted.
            successor = None
        if not board.cluster.policy.cover:
            if _enough(board, deployment):
                board.remove_replica(placement, Cause.SUPERSEDED)
        elif successor is not None:
            # Each worker hands over by itself: clients of the shared port must not meet a gap. A failed successor
            # leaves the old version serving.
            if successor.serves:
                board.remove_replica(placement, Cause.SUPERSEDED)
        elif _enough(board, deployment):
            _replace_here(board, deployment, placement)


def _replace_here(board: Board, deployment: WantedDeployment, placement: ReplicaPlacement) -> None:
    """Swap on a worker that has no room for both versions, one worker at a time."""
    if any(p.state in _STARTING for p in current(board, deployment)):
        return
    board.remove_replica(placement, Cause.SUPERSEDED)
    worker = board.workers[placement.worker]
    if not board.holds(worker.name, deployment.key) and board.with_replica(worker, deployment).fits(worker.capacity):
        board.place_replica(worker.name, deployment, Cause.COVER)


def _held(board: Board, worker: str, key: ReplicaKey) -> ReplicaPlacement | None:
    return next((p for p in board.replicas_on(worker) if p.key == key), None)


def _empty_draining(board: Board, deployment: WantedDeployment) -> None:
    """Remove replicas from draining workers once enough others serve; the last one stays until then."""
    for placement in board.replicas_of(deployment.key.owner):
        if board.is_active(placement.worker):
            continue
        replaced = _enough(board, deployment)
        if replaced or (not placement.may_serve and current(board, deployment)):
            board.remove_replica(placement, Cause.WORKER_DRAINS)


def _trim(board: Board, deployment: WantedDeployment) -> None:
    """Remove what serves beyond the wanted number: the long-standing before the new, the busiest worker's first."""
    now, residency = board.cluster.now, board.cluster.policy.residency_seconds
    here = current(board, deployment)
    serving = [placement for placement in here if placement.serves]
    # A replica that was just moved for balance must not be the one that goes: that would be a flap.
    serving.sort(
        key=lambda p: (now - p.placed_at < residency, -board.score(board.workers[p.worker]), p.worker),
    )
    for placement in serving[: max(0, len(serving) - deployment.replicas)]:
        board.remove_replica(placement, Cause.SURPLUS)
