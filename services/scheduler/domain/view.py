"""The cluster as this process knows it: what the database holds, and what workers last said of themselves."""

from dataclasses import replace

from services.scheduler.domain.assignment import Assignment, Report, ReportedReplica, Stored
from services.scheduler.domain.board import Board
from services.scheduler.domain.cluster import (
    Cluster,
    ReplicaPlacement,
    ReplicaState,
    Resources,
    Worker,
    WorkerState,
)

# Half of a new measurement, half of what was: a single busy second moves nothing.
_SMOOTHING = 0.5


class View:
    """Workers and placements with their latest reports; a standby hears reports, too, and so knows loads in time."""

    def __init__(self) -> None:
        self.stored = Stored()
        self._reports: dict[str, Report] = {}
        self._heard: dict[str, float] = {}

    def take(self, stored: Stored) -> None:
        """Take what the database holds; reports of leases that have ended are forgotten."""
        self.stored = stored
        for name, report in list(self._reports.items()):
            worker = stored.workers.get(name)
            if worker is not None and worker.epoch != report.epoch:
                del self._reports[name]

    def hear(self, report: Report, now: float) -> bool:
        """Take a worker's report, its load smoothed; return whether its replicas changed."""
        worker = self.stored.workers.get(report.worker)
        if worker is not None and worker.epoch != report.epoch:
            return False
        before = self._reports.get(report.worker)
        if before is not None:
            mean = _SMOOTHING * report.load.cpu_utilization + (1 - _SMOOTHING) * before.load.cpu_utilization
            report = replace(report, load=replace(report.load, cpu_utilization=mean))
        self._reports[report.worker] = report
        self.note_heard(report.worker, now)
        return before is None or before.replicas != report.replicas

    def forget_report(self, worker: str) -> None:
        """Forget what a process that is gone said."""
        self._reports.pop(worker, None)

    def note_heard(self, worker: str, now: float) -> None:
        """Remember when a worker was heard of, seconds since 1970."""
        self._heard[worker] = now

    def heard_at(self, worker: str) -> float:
        """Return when a worker was heard of last, seconds since 1970; 0 if it was not."""
        return self._heard.get(worker, 0.0)

    def with_load(self, worker: Worker) -> Worker:
        """Return a worker with its latest load."""
        report = self._reports.get(worker.name)
        return replace(worker, load=report.load) if report is not None else worker

    def workers(self) -> tuple[Worker, ...]:
        """Return all workers with their latest loads."""
        return tuple(self.with_load(worker) for worker in self.stored.workers.values())

    def replicas(self) -> tuple[ReplicaPlacement, ...]:
        """Return all replica placements with their latest states."""
        return tuple(replace(placement, state=self._state_of(placement)) for placement in self.stored.replicas)

    def reported(self, placement: ReplicaPlacement) -> ReportedReplica | None:
        """Return what a worker says of a replica; None where it has said nothing."""
        report = self._reports.get(placement.worker)
        return report.replicas.get(placement.key) if report is not None else None

    def allocated(self, worker: str) -> Resources:
        """Return what a worker's placements take."""
        stored = self.stored
        return Board(Cluster(replica_placements=stored.replicas, job_placements=stored.jobs)).used(worker)

    def assignments(self, leader_epoch: int) -> list[Assignment]:
        """Return what each worker is to do; a lost one keeps what it was last told, for it may still serve."""
        return [
            Assignment(
                worker.name,
                worker.epoch,
                leader_epoch,
                tuple(p for p in self.stored.replicas if p.worker == worker.name),
                tuple(p for p in self.stored.jobs if p.worker == worker.name),
                worker.state is WorkerState.DRAINING,
            )
            for worker in self.stored.workers.values()
            if worker.state is not WorkerState.LOST
        ]

    def _state_of(self, placement: ReplicaPlacement) -> ReplicaState:
        if placement.worker not in self._reports:
            return ReplicaState.UNKNOWN
        said = self.reported(placement)
        # What was said of an earlier placement of the version says nothing of this one: that replica may be gone.
        if said is None or said.epoch not in (0, placement.epoch):
            return ReplicaState.PLACED
        return said.state
