"""Where jobs go: first come, first served, with bounded overtaking.

Jobs are placed in the order of their creation. A job that no worker has room for now may be overtaken by smaller ones,
so that cores do not idle behind it; once it has waited longer than `backfill_seconds`, one worker that is large
enough is kept free of younger jobs until it fits. Running jobs never move for balance.
"""

from services.scheduler.domain.board import Board
from services.scheduler.domain.cluster import (
    Cause,
    JobKey,
    JobPlacement,
    JobState,
    Reason,
    Unplaced,
    WantedJob,
    Worker,
    WorkerKind,
    WorkerState,
)


def plan_jobs(board: Board) -> list[Unplaced]:
    """Put the job moves of one round on the board; return what has no place."""
    wanted = {job.key: job for job in board.cluster.jobs}
    avoid = _drop(board, wanted)
    placed = {placement.key for placement in board.jobs()}
    unplaced: list[Unplaced] = []
    reserved: set[str] = set()
    for job in sorted(wanted.values(), key=lambda job: (job.queued_at, job.key)):
        if job.key in placed:
            continue
        if _is_given_back_soon(board, job):
            message = f"worker {job.worker} drains and is about to give the job back"
            unplaced.append(Unplaced(job.key, 1, Reason.WAITS_FOR_GIVE_BACK, message))
            continue
        worker = _choose(board, job, reserved, avoid.get(job.key, ""))
        if worker is not None:
            board.place_job(worker.name, job, Cause.WANTED)
            continue
        unplaced.append(_explain(board, job))
        if board.cluster.now - job.queued_at >= board.cluster.policy.backfill_seconds:
            _reserve(board, job, reserved)
    return unplaced


def _drop(board: Board, wanted: dict[JobKey, WantedJob]) -> dict[JobKey, str]:
    """Remove placements that ended; return the worker that each job should rather not get again."""
    avoid: dict[JobKey, str] = {}
    for placement in board.jobs():
        cause = _reason_to_leave(board, wanted.get(placement.key), placement)
        if cause is not None:
            board.remove_job(placement, cause)
            avoid[placement.key] = placement.worker
    return avoid


def _reason_to_leave(board: Board, job: WantedJob | None, placement: JobPlacement) -> Cause | None:
    worker = board.workers.get(placement.worker)
    if job is None:
        return Cause.UNWANTED
    if worker is None or worker.state is WorkerState.LOST or worker.kind is not WorkerKind.TRAINING:
        return Cause.WORKER_LOST
    if worker.state is WorkerState.DRAINING:
        return Cause.WORKER_DRAINS
    # The claim of this very placement ended without the job ending: its worker gave it back. A claim above it means
    # that this scheduler's counter was behind.
    spent = job.state is JobState.QUEUED and job.epoch == placement.epoch > 0
    return Cause.GIVEN_BACK if spent or job.epoch > placement.epoch > 0 else None


def _is_given_back_soon(board: Board, job: WantedJob) -> bool:
    """Return whether a live draining worker still runs the job: it checkpoints and gives the job back itself."""
    worker = board.workers.get(job.worker)
    if job.state is not JobState.RUNNING or worker is None or worker.state is not WorkerState.DRAINING:
        return False
    waited = board.cluster.now - (worker.drained_at or 0.0)
    return worker.kind is WorkerKind.TRAINING and waited < board.cluster.policy.give_back_seconds


def _room_fits(board: Board, worker: Worker, job: WantedJob) -> bool:
    return (board.used(worker.name) + job.resources).fits(worker.capacity)


def _choose(board: Board, job: WantedJob, reserved: set[str], avoid: str) -> Worker | None:
    fitting = [
        worker
        for worker in board.active(WorkerKind.TRAINING)
        if worker.name not in reserved and _room_fits(board, worker, job)
    ]
    return min(fitting, key=lambda worker: _preference(board, worker, job, avoid), default=None)


def _preference(board: Board, worker: Worker, job: WantedJob, avoid: str) -> tuple[bool, bool, float, str]:
    after = (board.used(worker.name) + job.resources).share_of(worker.capacity) + worker.load.utilization
    wastes_gpus = job.resources.gpus == 0 and worker.capacity.gpus > 0
    return worker.name == avoid, wastes_gpus, after, worker.name


def _reserve(board: Board, job: WantedJob, reserved: set[str]) -> None:
    """Keep the freest worker that is large enough for a job that waits too long.

    While a worker is kept, its room only grows; the choice changes only to one with more room. So the wait ends.
    """
    large = [
        worker
        for worker in board.active(WorkerKind.TRAINING)
        if worker.name not in reserved and job.resources.fits(worker.capacity)
    ]
    if large:
        reserved.add(min(large, key=lambda w: (board.used(w.name).share_of(w.capacity), w.name)).name)


def _explain(board: Board, job: WantedJob) -> Unplaced:
    workers = board.active(WorkerKind.TRAINING)
    needs = f"{job.resources.cores:g} cores, {job.resources.memory_bytes / (1 << 20):.0f} MiB"
    needs += f", {job.resources.gpus:g} GPUs" if job.resources.gpus else ""
    if not workers:
        return Unplaced(job.key, 1, Reason.NO_WORKER, "no training worker is active: start one")
    if not any(job.resources.fits(worker.capacity) for worker in workers):
        message = f"no training worker is large enough for {needs}: ask for less"
        return Unplaced(job.key, 1, Reason.TOO_LARGE, message)
    return Unplaced(job.key, 1, Reason.NO_ROOM, f"waits for a training worker with {needs} free")
