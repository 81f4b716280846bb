"""Clusters for tests: made by hypothesis, and a world that plans are applied to."""

from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from services.scheduler.domain.board import Board
from services.scheduler.domain.cluster import (
    Cluster,
    DeploymentKey,
    JobKey,
    JobPlacement,
    JobState,
    Load,
    PlaceJob,
    PlaceReplica,
    Plan,
    Policy,
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
from services.scheduler.domain.plan import plan
from services.scheduler.domain.routing import Role, Routing

MIB = 1 << 20
NOW = 1_000_000.0


def resources(cores: float = 0.5, mib: int = 256, gpus: float = 0) -> Resources:
    """Return resources; memory in MiB."""
    return Resources(cores, mib * MIB, gpus)


def inference_worker(name: str, cores: float = 4, mib: int = 4096, gpus: float = 0, cpu: float = 0.0) -> Worker:
    """Return an active inference worker."""
    capacity = resources(cores, mib, gpus)
    return Worker(name, WorkerKind.INFERENCE, WorkerState.ACTIVE, capacity, load=Load(cpu_utilization=cpu))


def training_worker(name: str, cores: float = 4, mib: int = 4096, gpus: float = 0) -> Worker:
    """Return an active training worker."""
    return Worker(name, WorkerKind.TRAINING, WorkerState.ACTIVE, resources(cores, mib, gpus))


def deployment(
    name: str, number: int = 1, replicas: int = 1, needs: Resources | None = None, workspace: str = "default"
) -> WantedDeployment:
    """Return a wanted deployment of the model of the same name."""
    return WantedDeployment(ReplicaKey(workspace, name, name, number), replicas, needs or resources())


def beside(wanted: WantedDeployment, **roles: int) -> WantedDeployment:
    """Return a deployment with other versions beside its own: their numbers by role."""
    companions = tuple(
        replace(wanted, key=replace(wanted.key, number=number), routing=Routing(Role(role), 10.0), companions=())
        for role, number in sorted(roles.items())
        if number != wanted.key.number
    )
    return replace(wanted, companions=companions)


def job(name: str, queued_at: float = NOW, needs: Resources | None = None, workspace: str = "default") -> WantedJob:
    """Return a queued job."""
    return WantedJob(JobKey(workspace, name), needs or resources(1, 1024), queued_at)


@dataclass
class World:
    """A cluster that moves on: plans are applied to it and replicas come up.

    Args:
        cluster: what is now.
        epoch: the placement epoch given last.
        broken: (worker, deployment, number) that never load.
    """

    cluster: Cluster
    epoch: int = 0
    broken: frozenset[tuple[str, str, int]] = frozenset()
    history: list[Plan] = field(default_factory=list)

    def step(self) -> Plan:
        """Plan once and write the moves down."""
        made = plan(self.cluster)
        self.history.append(made)
        for move in made.moves:
            self._apply(move)
        return made

    def load(self) -> None:
        """Let every replica that was placed come up, or fail."""
        self.cluster = replace(
            self.cluster,
            now=self.cluster.now + 1,
            replica_placements=tuple(replace(p, state=self._loaded(p)) for p in self.cluster.replica_placements),
        )

    def settle(self, rounds: int = 200, seconds: float = 1.0) -> int:
        """Plan, apply and load until a plan has no moves; return the rounds."""
        for count in range(rounds):
            if not self.step().moves:
                return count
            self.load()
            self.cluster = replace(self.cluster, now=self.cluster.now + seconds)
        raise AssertionError(f"no fixed point after {rounds} rounds: {self.history[-2:]}")

    def change(self, **changes: object) -> None:
        """Change parts of the cluster."""
        self.cluster = replace(self.cluster, **changes)  # type: ignore[arg-type]

    def set_worker(self, name: str, **changes: object) -> None:
        """Change one worker."""
        workers = tuple(
            replace(w, **changes) if w.name == name else w  # type: ignore[arg-type]
            for w in self.cluster.workers
        )
        self.cluster = replace(self.cluster, workers=workers)

    def ready(self, name: str, number: int | None = None) -> set[str]:
        """Return the workers on which a deployment's requests find an answer, or one version of it is loaded."""
        silent = () if number else (Role.SHADOW, Role.CANARY)
        return {
            p.worker
            for p in self.cluster.replica_placements
            if p.key.deployment == name and p.serves and number in (None, p.key.number) and p.routing.role not in silent
        }

    def job_worker(self, name: str) -> str | None:
        """Return where a job is placed."""
        return next((p.worker for p in self.cluster.job_placements if p.key.job == name), None)

    def _loaded(self, placement: ReplicaPlacement) -> ReplicaState:
        key = (placement.worker, placement.key.deployment, placement.key.number)
        return ReplicaState.FAILED if key in self.broken else ReplicaState.READY

    def _apply(self, move: object) -> None:
        replicas = {(p.worker, p.key): p for p in self.cluster.replica_placements}
        jobs = {(p.worker, p.key): p for p in self.cluster.job_placements}
        match move:
            case PlaceReplica(worker, wanted, _):
                old = replicas.get((worker, wanted.key))
                self.epoch += 1
                state = old.state if old else ReplicaState.PLACED
                placed_at = old.placed_at if old else self.cluster.now
                replicas[worker, wanted.key] = ReplicaPlacement(
                    worker,
                    wanted.key,
                    wanted.resources,
                    wanted.digest,
                    wanted.aliases,
                    self.epoch,
                    placed_at,
                    state,
                    wanted.routing,
                )
            case RemoveReplica(worker, key, _):
                del replicas[worker, key]
            case PlaceJob(worker, wanted_job, _):
                self.epoch += 1
                assert not any(key == wanted_job.key for _, key in jobs), "a job is placed twice"
                jobs[worker, wanted_job.key] = JobPlacement(
                    worker, wanted_job.key, wanted_job.resources, self.epoch, self.cluster.now
                )
            case RemoveJob(worker, job_key, _):
                del jobs[worker, job_key]
        self.cluster = replace(
            self.cluster, replica_placements=tuple(replicas.values()), job_placements=tuple(jobs.values())
        )


def assert_within_capacity(cluster: Cluster) -> None:
    """Check that no live worker is to hold more than it has."""
    board = Board(cluster)
    for worker in cluster.workers:
        if worker.state is not WorkerState.LOST:
            assert board.used(worker.name).fits(worker.capacity), worker


_NAMES = ("a", "b", "c", "d", "e")

_worker_resources = st.builds(
    resources,
    st.sampled_from([1.0, 2.0, 4.0]),
    st.sampled_from([512, 1024, 4096]),
    st.sampled_from([0.0, 0.0, 1.0, 2.0]),
)
_needs = st.builds(
    resources, st.sampled_from([0.1, 0.5, 1.0, 3.0]), st.sampled_from([128, 256, 700]), st.sampled_from([0.0, 0.0, 1.0])
)


def _workers(kind: WorkerKind, prefix: str, least: int = 0) -> st.SearchStrategy[list[Worker]]:
    worker = st.builds(
        Worker,
        st.just(""),
        st.just(kind),
        st.sampled_from([WorkerState.ACTIVE] * 4 + [WorkerState.DRAINING, WorkerState.LOST]),
        _worker_resources,
        load=st.builds(Load, st.sampled_from([0.0, 0.2, 0.9])),
    )
    return st.lists(worker, min_size=least, max_size=4).map(
        lambda made: [replace(w, name=f"{prefix}{index}") for index, w in enumerate(made)]
    )


_companions = st.dictionaries(
    st.sampled_from(["target", "canary", "shadow", "standby"]), st.integers(1, 3), max_size=2
).map(lambda roles: {role: number for number, role in {number: role for role, number in roles.items()}.items()})


@st.composite
def clusters(draw: st.DrawFn, cover: bool | None = None) -> Cluster:
    """Draw a cluster in which nothing is placed yet."""
    deployments = [
        beside(
            _as_declared(draw, deployment(name, draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(_needs))),
            **draw(_companions),
        )
        for name in draw(st.lists(st.sampled_from(_NAMES), unique=True, max_size=5))
    ]
    jobs = [
        job(name, NOW - draw(st.integers(0, 100)), draw(_needs))
        for name in draw(st.lists(st.sampled_from(_NAMES), unique=True, max_size=5))
    ]
    policy = Policy(cover=draw(st.booleans()) if cover is None else cover)
    workers = draw(_workers(WorkerKind.INFERENCE, "i")) + draw(_workers(WorkerKind.TRAINING, "t"))
    return Cluster(tuple(workers), tuple(deployments), tuple(jobs), now=NOW, policy=policy)


@st.composite
def changes(draw: st.DrawFn, cluster: Cluster) -> Cluster:
    """Draw a change of a cluster: workers join, drain, return or are lost; versions move; work comes and goes."""
    workers = tuple(
        replace(w, state=draw(st.sampled_from([w.state, w.state, *WorkerState])), drained_at=cluster.now)
        for w in cluster.workers
    )
    joined = tuple(replace(w, name=f"j{index}") for index, w in enumerate(draw(_workers(WorkerKind.INFERENCE, ""))))
    deployments = tuple(
        _next_version(draw, _measured_anew(draw, replace(d, replicas=draw(st.integers(1, 3)))))
        for d in cluster.deployments
        if draw(st.integers(0, 4))
    )
    jobs = tuple(j for j in cluster.jobs if draw(st.integers(0, 2)))
    taken = {w.name for w in workers}
    return replace(
        cluster,
        workers=workers + tuple(w for w in joined if w.name not in taken),
        deployments=deployments,
        jobs=jobs,
        now=cluster.now + draw(st.sampled_from([1.0, 120.0])),
    )


def _as_declared(draw: st.DrawFn, wanted: WantedDeployment) -> WantedDeployment:
    """Return a deployment of which all is declared, or a part of it, the rest following measurement."""
    needs = wanted.resources
    parts = [None, needs, Resources(0.0, needs.memory_bytes, needs.gpus), Resources(needs.cores, 0, needs.gpus)]
    declared = draw(st.sampled_from([*parts, Resources(0.0, 0, needs.gpus)]))
    return replace(wanted, declared=declared, has_served=draw(st.booleans()))


def _measured_anew(draw: st.DrawFn, wanted: WantedDeployment) -> WantedDeployment:
    """Return a deployment whose undeclared resources are measured to be others."""
    if wanted.declared is None:
        return wanted
    used = draw(_needs)
    cores = wanted.declared.cores or used.cores
    memory_bytes = wanted.declared.memory_bytes or used.memory_bytes
    return replace(wanted, resources=Resources(cores, memory_bytes, wanted.resources.gpus))


def _next_version(draw: st.DrawFn, present: WantedDeployment) -> WantedDeployment:
    """Return a deployment of another version, or the same: its former one stands by, or others stand beside it."""
    wanted = replace(present, key=replace(present.key, number=draw(st.integers(1, 3))))
    roles = draw(_companions)
    if draw(st.booleans()) and wanted.key != present.key:
        roles = {role: number for role, number in roles.items() if number != present.key.number}
        roles["standby"] = present.key.number
    return beside(wanted, **roles)


def owner(name: str) -> DeploymentKey:
    """Return a deployment's key in the default workspace."""
    return DeploymentKey("default", name)


def running(made: WantedJob, worker: str, epoch: int) -> WantedJob:
    """Return a job as the training service lists it once a worker took it."""
    return replace(made, state=JobState.RUNNING, worker=worker, epoch=epoch)
