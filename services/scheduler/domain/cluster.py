"""What the planner sees and says: plain values, no clock, no transport."""

from dataclasses import dataclass, field, replace
from enum import Enum

from services.scheduler.domain.routing import Role, Routing

# Sums of fractions of cores are compared with this slack: three times 0.1 must fit into 0.3.
_SLACK = 1e-9
# What a replica whose cores follow measurement is placed with where no worker has more free.
LEAST_CORES = 0.002


class WorkerKind(Enum):
    """What a worker runs."""

    INFERENCE = "inference"
    TRAINING = "training"


class WorkerState(Enum):
    """Where a worker stands."""

    ACTIVE = "active"
    DRAINING = "draining"
    LOST = "lost"


class ReplicaState(Enum):
    """Where a placed replica stands, as its worker says.

    UNKNOWN: the worker has not reported since this scheduler began to lead; it may well serve.
    PLACED: the worker has reported, and does not speak of it yet.
    """

    UNKNOWN = "unknown"
    PLACED = "placed"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


class JobState(Enum):
    """Where a job stands, as the training service says; ended jobs are not wanted at all."""

    QUEUED = "queued"
    RUNNING = "running"


@dataclass(frozen=True)
class Resources:
    """What work needs, or what a worker has.

    Args:
        cores: processor cores, fractions allowed.
        memory_bytes: main memory, bytes.
        gpus: accelerators.
    """

    cores: float = 0.0
    memory_bytes: int = 0
    gpus: float = 0.0

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(self.cores + other.cores, self.memory_bytes + other.memory_bytes, self.gpus + other.gpus)

    def __sub__(self, other: "Resources") -> "Resources":
        return Resources(self.cores - other.cores, self.memory_bytes - other.memory_bytes, self.gpus - other.gpus)

    def fits(self, room: "Resources") -> bool:
        """Return whether this much is there."""
        return (
            self.cores <= room.cores + _SLACK
            and self.memory_bytes <= room.memory_bytes
            and self.gpus <= room.gpus + _SLACK
        )

    def share_of(self, capacity: "Resources") -> float:
        """Return the dominant share: the largest of the three parts of a capacity that this takes, 0 to 1.

        Source: Ghodsi et al., Dominant Resource Fairness, NSDI 2011.
        """
        pairs = (
            (self.cores, capacity.cores),
            (self.memory_bytes, capacity.memory_bytes),
            (self.gpus, capacity.gpus),
        )
        return max((part / whole for part, whole in pairs if whole > 0), default=0.0)


@dataclass(frozen=True)
class Load:
    """What a worker says that it is busy with; units as in lepton.v1.Load."""

    cpu_utilization: float = 0.0
    memory_bytes: int = 0
    in_flight: int = 0
    requests_per_second: float = 0.0
    gpu_utilization: float = 0.0
    gpu_used_bytes: int = 0
    gpu_memory_bytes: int = 0

    @property
    def utilization(self) -> float:
        """How busy it is: by its processors, or by its GPUs where these are busier."""
        return max(self.cpu_utilization, self.gpu_utilization)


@dataclass(frozen=True)
class Worker:
    """A process that runs replicas or jobs.

    Args:
        name: its id.
        kind: what it runs.
        state: where it stands.
        capacity: what it has.
        epoch: the epoch of its lease.
        address: its private host:port; empty for a training worker.
        joined_at: when it registered, seconds since 1970.
        drained_at: when its drain began, seconds since 1970; None while it does not drain.
        load: its latest load.
    """

    name: str
    kind: WorkerKind
    state: WorkerState
    capacity: Resources
    epoch: int = 1
    address: str = ""
    joined_at: float = 0.0
    drained_at: float | None = None
    load: Load = field(default_factory=Load)


@dataclass(frozen=True, order=True)
class DeploymentKey:
    """Which deployment."""

    workspace: str
    deployment: str


@dataclass(frozen=True, order=True)
class ReplicaKey:
    """Which version of which deployment: what one worker holds at most once."""

    workspace: str
    deployment: str
    model: str
    number: int

    @property
    def owner(self) -> DeploymentKey:
        """The deployment that it serves."""
        return DeploymentKey(self.workspace, self.deployment)


@dataclass(frozen=True, order=True)
class JobKey:
    """Which job."""

    workspace: str
    job: str


@dataclass(frozen=True)
class WantedDeployment:
    """What the inference service wants served.

    Args:
        key: the version wanted now.
        replicas: the least number of workers that are to hold it.
        resources: what a replica reserves.
        digest: the version's digest.
        aliases: aliases that name the version now.
        sequence: the deployment's own count of changes.
        routing: which requests the version takes.
        companions: versions that stand beside the wanted one, wherever that stands: those of a split, a canary, a
            shadow; and a standby, which stays where it is and yields to whatever is wanted.
        declared: the part of the resources that was declared; the rest follows measurement, and never moves a replica.
            None where all of it was.
        has_served: whether the deployment has served before.
    """

    key: ReplicaKey
    replicas: int = 1
    resources: Resources = field(default_factory=Resources)
    digest: str = ""
    aliases: tuple[str, ...] = ()
    sequence: int = 0
    routing: Routing = field(default_factory=Routing)
    companions: tuple["WantedDeployment", ...] = ()
    declared: Resources | None = None
    has_served: bool = False

    def is_met_by(self, resources: Resources) -> bool:
        """Return whether a placement of some resources is as wanted: what follows measurement does not count."""
        if self.declared is None:
            return resources == self.resources
        same_cores = not self.declared.cores or resources.cores == self.resources.cores
        same_memory = not self.declared.memory_bytes or resources.memory_bytes == self.resources.memory_bytes
        return same_cores and same_memory and resources.gpus == self.resources.gpus

    @property
    def squeezed(self) -> "WantedDeployment":
        """The same with the least cores that it can be placed with: those that follow measurement can be shared."""
        if self.declared is None or self.declared.cores:
            return self
        cores = min(self.resources.cores, LEAST_CORES)
        return replace(self, resources=replace(self.resources, cores=cores))

    def companion(self, key: ReplicaKey) -> "WantedDeployment | None":
        """Return the companion of a version; None where it is none."""
        return next((item for item in self.companions if item.key == key), None)


@dataclass(frozen=True)
class WantedJob:
    """What the training service wants run.

    Args:
        key: which job.
        resources: what it declares.
        queued_at: when it was created, seconds since 1970: its place in the line.
        state: queued or running.
        worker: the worker that claimed it last; empty if none did.
        epoch: the epoch of that claim; 0 if none.
        sequence: the job's own count of changes.
    """

    key: JobKey
    resources: Resources = field(default_factory=Resources)
    queued_at: float = 0.0
    state: JobState = JobState.QUEUED
    worker: str = ""
    epoch: int = 0
    sequence: int = 0


@dataclass(frozen=True)
class ReplicaPlacement:
    """A replica that a worker is to hold.

    Args:
        worker: the worker's id.
        key: which version of which deployment.
        resources: what it declared when it was placed.
        digest, aliases: as in WantedDeployment.
        epoch: the epoch of the placement; 0 until it is written down.
        placed_at: when it was placed, seconds since 1970.
        state: what the worker says of it.
        routing: which requests it takes.
    """

    worker: str
    key: ReplicaKey
    resources: Resources = field(default_factory=Resources)
    digest: str = ""
    aliases: tuple[str, ...] = ()
    epoch: int = 0
    placed_at: float = 0.0
    state: ReplicaState = ReplicaState.UNKNOWN
    routing: Routing = field(default_factory=Routing)

    @property
    def is_standby(self) -> bool:
        """Whether it stays for a rollback alone."""
        return self.routing.role is Role.STANDBY

    @property
    def serves(self) -> bool:
        """Whether it certainly takes requests."""
        return self.state is ReplicaState.READY

    @property
    def may_serve(self) -> bool:
        """Whether it might take requests: nobody has said yet."""
        return self.state in (ReplicaState.READY, ReplicaState.UNKNOWN)


@dataclass(frozen=True)
class JobPlacement:
    """A job that a worker is to run; fields as in ReplicaPlacement."""

    worker: str
    key: JobKey
    resources: Resources = field(default_factory=Resources)
    epoch: int = 0
    placed_at: float = 0.0


@dataclass(frozen=True)
class Policy:
    """How the planner weighs things.

    Args:
        cover: whether a deployment gets a replica on every active worker that has room, beyond the number it
            asks for. True until a worker can forward a request for a model that it does not hold.
        threshold: the least difference of score (dominant share plus processor utilisation) between two workers that
            counts as lopsided.
        margin: how much a balancing move must lower the higher of the two scores.
        moves_per_round: most balancing moves begun at once.
        residency_seconds: how long a replica stays before it may be moved for balance again.
        backfill_seconds: how long smaller jobs may overtake a job that finds no room.
        give_back_seconds: how long a draining worker has to give a job back before another takes it over.
    """

    cover: bool = True
    threshold: float = 0.25
    margin: float = 0.1
    moves_per_round: int = 2
    residency_seconds: float = 60.0
    backfill_seconds: float = 60.0
    give_back_seconds: float = 15.0


@dataclass(frozen=True)
class Cluster:
    """Everything that a plan depends on.

    Args:
        now: seconds since 1970.
    """

    workers: tuple[Worker, ...] = ()
    deployments: tuple[WantedDeployment, ...] = ()
    jobs: tuple[WantedJob, ...] = ()
    replica_placements: tuple[ReplicaPlacement, ...] = ()
    job_placements: tuple[JobPlacement, ...] = ()
    now: float = 0.0
    policy: Policy = field(default_factory=Policy)


class Cause(Enum):
    """Why a move is made."""

    WANTED = "wanted"
    COVER = "cover"
    COMPANION = "companion"
    CHANGED = "changed"
    BALANCE = "balance"
    SUPERSEDED = "superseded"
    SURPLUS = "surplus"
    MAKE_ROOM = "make_room"
    UNWANTED = "unwanted"
    WORKER_LOST = "worker_lost"
    WORKER_DRAINS = "worker_drains"
    GIVEN_BACK = "given_back"


@dataclass(frozen=True)
class PlaceReplica:
    """A worker is to hold a replica; for one that it holds already, with what it declares now."""

    worker: str
    wanted: WantedDeployment
    cause: Cause


@dataclass(frozen=True)
class RemoveReplica:
    """A worker is to hold a replica no longer."""

    worker: str
    key: ReplicaKey
    cause: Cause


@dataclass(frozen=True)
class PlaceJob:
    """A worker is to run a job, with a placement epoch above any that the job had."""

    worker: str
    wanted: WantedJob
    cause: Cause


@dataclass(frozen=True)
class RemoveJob:
    """A worker is to run a job no longer."""

    worker: str
    key: JobKey
    cause: Cause


Move = PlaceReplica | RemoveReplica | PlaceJob | RemoveJob


class Reason(Enum):
    """Why work has no place."""

    NO_WORKER = "NO_WORKER"
    TOO_LARGE = "TOO_LARGE"
    NO_ROOM = "NO_ROOM"
    FEWER_WORKERS = "FEWER_WORKERS"
    LOAD_FAILED = "LOAD_FAILED"
    WAITS_FOR_GIVE_BACK = "WAITS_FOR_GIVE_BACK"


@dataclass(frozen=True)
class Unplaced:
    """Work that has no place now.

    Args:
        key: the deployment or the job.
        missing: how many replicas (1 for a job).
        reason: stable, for programs.
        message: for people: what is missing.
    """

    key: DeploymentKey | JobKey
    missing: int
    reason: Reason
    message: str


@dataclass(frozen=True)
class Plan:
    """What to do, in order, and what cannot be done."""

    moves: tuple[Move, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
