"""Wire types to domain types and back: pure, total over enums."""

from dataclasses import replace
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.v1 import common_pb2, inference_pb2, scheduler_pb2, training_pb2
from servicekit.errors import InvalidArgument
from services.scheduler.domain.assignment import Assignment, Report, ReportedReplica
from services.scheduler.domain.cluster import (
    JobKey,
    JobPlacement,
    JobState,
    Load,
    ReplicaKey,
    ReplicaPlacement,
    ReplicaState,
    Resources,
    Unplaced,
    WantedDeployment,
    WantedJob,
    Worker,
    WorkerKind,
    WorkerState,
)
from services.scheduler.domain.routing import Role, Routing

# Owners resolve zeros; these stand where one did not (see Deployment.resources and JobSpec.resources).
_REPLICA_DEFAULT = Resources(0.5, 256 << 20)
_JOB_DEFAULT = Resources(1.0, 1 << 30)

_KINDS = {
    WorkerKind.INFERENCE: scheduler_pb2.WORKER_KIND_INFERENCE,
    WorkerKind.TRAINING: scheduler_pb2.WORKER_KIND_TRAINING,
}
_STATES = {
    WorkerState.ACTIVE: scheduler_pb2.WORKER_STATE_ACTIVE,
    WorkerState.DRAINING: scheduler_pb2.WORKER_STATE_DRAINING,
    WorkerState.LOST: scheduler_pb2.WORKER_STATE_LOST,
}
_REPLICA_STATES = {
    # To people, a replica that nobody has spoken of yet is on its way.
    ReplicaState.UNKNOWN: scheduler_pb2.REPLICA_STATE_UNSPECIFIED,
    ReplicaState.PLACED: scheduler_pb2.REPLICA_STATE_UNSPECIFIED,
    ReplicaState.LOADING: scheduler_pb2.REPLICA_STATE_LOADING,
    ReplicaState.READY: scheduler_pb2.REPLICA_STATE_READY,
    ReplicaState.FAILED: scheduler_pb2.REPLICA_STATE_FAILED,
    ReplicaState.DRAINING: scheduler_pb2.REPLICA_STATE_DRAINING,
}
_REPORTED = {
    scheduler_pb2.REPLICA_STATE_UNSPECIFIED: ReplicaState.PLACED,
    scheduler_pb2.REPLICA_STATE_LOADING: ReplicaState.LOADING,
    scheduler_pb2.REPLICA_STATE_READY: ReplicaState.READY,
    scheduler_pb2.REPLICA_STATE_FAILED: ReplicaState.FAILED,
    scheduler_pb2.REPLICA_STATE_DRAINING: ReplicaState.DRAINING,
}
_ROLES = {
    Role.SERVING: scheduler_pb2.REPLICA_ROLE_SERVING,
    Role.TARGET: scheduler_pb2.REPLICA_ROLE_TARGET,
    Role.CANARY: scheduler_pb2.REPLICA_ROLE_CANARY,
    Role.SHADOW: scheduler_pb2.REPLICA_ROLE_SHADOW,
    Role.STANDBY: scheduler_pb2.REPLICA_ROLE_STANDBY,
}
_JOB_STATES = {
    training_pb2.JOB_STATE_QUEUED: JobState.QUEUED,
    training_pb2.JOB_STATE_RUNNING: JobState.RUNNING,
}


def kind_from_proto(kind: "scheduler_pb2.WorkerKind.ValueType") -> WorkerKind:
    """Return a worker's kind.

    Raises:
        InvalidArgument: it is unspecified or unknown.
    """
    for known, wire in _KINDS.items():
        if wire == kind:
            return known
    raise InvalidArgument("a worker's kind must be INFERENCE or TRAINING", violations=[("kind", "is unknown")])


def resources_to_proto(resources: Resources) -> common_pb2.Resources:
    """Return resources as their message."""
    return common_pb2.Resources(cores=resources.cores, memory_bytes=resources.memory_bytes, gpus=resources.gpus)


def resources_from_proto(message: common_pb2.Resources, default: Resources | None = None) -> Resources:
    """Return resources; zero cores or memory become the default's."""
    default = default or Resources()
    return Resources(message.cores or default.cores, message.memory_bytes or default.memory_bytes, message.gpus)


def load_to_proto(load: Load) -> scheduler_pb2.Load:
    """Return a load as its message."""
    return scheduler_pb2.Load(
        cpu_utilization=load.cpu_utilization,
        memory_bytes=load.memory_bytes,
        in_flight=load.in_flight,
        requests_per_second=load.requests_per_second,
        gpu_utilization=load.gpu_utilization,
        gpu_used_bytes=load.gpu_used_bytes,
        gpu_memory_bytes=load.gpu_memory_bytes,
    )


def load_from_proto(message: scheduler_pb2.Load) -> Load:
    """Return a load; the utilisation is held within 0 to 1."""
    utilization = min(max(message.cpu_utilization, 0.0), 1.0)
    gpu_utilization = min(max(message.gpu_utilization, 0.0), 1.0)
    return Load(
        utilization,
        message.memory_bytes,
        message.in_flight,
        message.requests_per_second,
        gpu_utilization,
        message.gpu_used_bytes,
        message.gpu_memory_bytes,
    )


def worker_to_proto(worker: Worker, allocated: Resources, heard_at: float) -> scheduler_pb2.Worker:
    """Return a worker as its message.

    Args:
        worker: the worker.
        allocated: what its placements take.
        heard_at: when it was heard of last, seconds since 1970; 0 if it was not.
    """
    return scheduler_pb2.Worker(
        name=worker.name,
        kind=_KINDS[worker.kind],
        state=_STATES[worker.state],
        capacity=resources_to_proto(worker.capacity),
        allocated=resources_to_proto(allocated),
        load=load_to_proto(worker.load),
        address=worker.address,
        epoch=worker.epoch,
        join_time=timestamp(worker.joined_at),
        report_time=timestamp(heard_at) if heard_at else None,
    )


def replica_to_proto(placement: ReplicaPlacement, reported: ReportedReplica | None = None) -> scheduler_pb2.Replica:
    """Return a replica; with what its worker reports, if that is given."""
    key = placement.key
    return scheduler_pb2.Replica(
        workspace=key.workspace,
        deployment=key.deployment,
        model=key.model,
        number=key.number,
        digest=placement.digest,
        resources=resources_to_proto(placement.resources),
        epoch=placement.epoch,
        aliases=placement.aliases,
        routing=routing_to_proto(placement.routing),
        state=_REPLICA_STATES[reported.state] if reported else scheduler_pb2.REPLICA_STATE_UNSPECIFIED,
        message=reported.message if reported else "",
        provider=reported.provider if reported else "",
    )


def job_to_proto(placement: JobPlacement) -> scheduler_pb2.JobPlacement:
    """Return a job's placement as its message."""
    return scheduler_pb2.JobPlacement(
        workspace=placement.key.workspace,
        job=placement.key.job,
        resources=resources_to_proto(placement.resources),
        epoch=placement.epoch,
    )


def unplaced_to_proto(unplaced: Unplaced) -> scheduler_pb2.UnplacedWork:
    """Return work that has no place as its message."""
    message = scheduler_pb2.UnplacedWork(
        workspace=unplaced.key.workspace,
        missing=unplaced.missing,
        reason=unplaced.reason.value,
        message=unplaced.message,
    )
    if isinstance(unplaced.key, JobKey):
        message.job = unplaced.key.job
    else:
        message.deployment = unplaced.key.deployment
    return message


def assignment_to_proto(assignment: Assignment) -> scheduler_pb2.Assignment:
    """Return an assignment as its message."""
    return scheduler_pb2.Assignment(
        worker=assignment.worker,
        worker_epoch=assignment.worker_epoch,
        leader_epoch=assignment.leader_epoch,
        replicas=[replica_to_proto(replica) for replica in assignment.replicas],
        jobs=[job_to_proto(job) for job in assignment.jobs],
        draining=assignment.draining,
    )


def assignment_from_proto(message: scheduler_pb2.Assignment) -> Assignment:
    """Return an assignment; times and states are not part of it."""
    return Assignment(
        message.worker,
        message.worker_epoch,
        message.leader_epoch,
        tuple(_replica_from_proto(message.worker, replica) for replica in message.replicas),
        tuple(
            JobPlacement(message.worker, JobKey(job.workspace, job.job), resources_from_proto(job.resources), job.epoch)
            for job in message.jobs
        ),
        message.draining,
    )


def report_from_proto(message: scheduler_pb2.WorkerReport) -> Report:
    """Return what a worker says of itself."""
    replicas = {
        _key_from_proto(replica): ReportedReplica(
            _REPORTED[replica.state], replica.message, replica.provider, replica.epoch
        )
        for replica in message.replicas
    }
    return Report(message.worker, message.epoch, load_from_proto(message.load), replicas)


def deployment_from_proto(message: inference_pb2.Deployment, workspace: str) -> WantedDeployment:
    """Return what a deployment wants."""
    model, _, reference = message.version.partition("@")
    aliases = (reference,) if reference and not reference.isdigit() else ()
    canary = message.canary if message.canary.state == inference_pb2.CANARY_STATE_RUNNING else None
    wanted = WantedDeployment(
        ReplicaKey(message.workspace or workspace, message.name, model, message.number),
        max(1, message.replicas),
        resources_from_proto(message.resources, _REPLICA_DEFAULT),
        message.digest,
        aliases,
        message.sequence,
        # What a canary is compared with is counted over the same time.
        Routing(
            window=canary.window if canary else 0,
            response_cache_bytes=message.response_cache_bytes,
            is_batching_off=message.batching == common_pb2.BATCHING_OFF,
        ),
        declared=resources_from_proto(message.declared_resources) if message.HasField("declared_resources") else None,
        has_served=message.HasField("serve_time"),
    )
    return replace(wanted, companions=_companions(message, canary, wanted))


def routing_to_proto(routing: Routing) -> scheduler_pb2.ReplicaRouting:
    """Return which requests a replica takes as its message."""
    return scheduler_pb2.ReplicaRouting(
        role=_ROLES[routing.role],
        weight_percent=routing.weight_percent,
        compare_percent=routing.compare_percent,
        tolerance=routing.tolerance,
        window=routing.window,
        start_percent=routing.start_percent,
        response_cache_bytes=routing.response_cache_bytes,
        batching=common_pb2.BATCHING_OFF if routing.is_batching_off else common_pb2.BATCHING_AUTO,
    )


def routing_from_proto(message: scheduler_pb2.ReplicaRouting) -> Routing:
    """Return which requests a replica takes."""
    role = next((known for known, wire in _ROLES.items() if wire == message.role), Role.SERVING)
    return Routing(
        role,
        message.weight_percent,
        message.compare_percent,
        message.tolerance,
        message.window,
        message.start_percent,
        message.response_cache_bytes,
        message.batching == common_pb2.BATCHING_OFF,
    )


def job_from_proto(message: training_pb2.Job, workspace: str) -> WantedJob | None:
    """Return what a job wants; None if it has ended."""
    state = _JOB_STATES.get(message.state)
    if state is None:
        return None
    return WantedJob(
        JobKey(message.workspace or workspace, message.name),
        resources_from_proto(message.spec.resources, _JOB_DEFAULT),
        seconds(message.create_time),
        state,
        message.worker,
        message.epoch,
        message.sequence,
    )


def timestamp(moment: float) -> Timestamp:
    """Return seconds since 1970 as a Timestamp."""
    made = Timestamp()
    made.FromDatetime(datetime.fromtimestamp(moment, UTC))
    return made


def seconds(moment: Timestamp) -> float:
    """Return a Timestamp as seconds since 1970."""
    return moment.seconds + moment.nanos / 1e9


def _key_from_proto(message: scheduler_pb2.Replica) -> ReplicaKey:
    return ReplicaKey(message.workspace, message.deployment, message.model, message.number)


def _companions(
    message: inference_pb2.Deployment, canary: inference_pb2.Canary | None, wanted: WantedDeployment
) -> tuple[WantedDeployment, ...]:
    """Return the versions beside a deployment's own; where one is two things, it is the first of them."""
    found: dict[ReplicaKey, WantedDeployment] = {}

    def add(version: str, number: int, digest: str, routing: Routing) -> None:
        key = replace(wanted.key, model=version.partition("@")[0], number=number)
        if key != wanted.key:
            own = wanted.routing
            kept = replace(routing, response_cache_bytes=own.response_cache_bytes, is_batching_off=own.is_batching_off)
            found.setdefault(key, replace(wanted, key=key, digest=digest, aliases=(), routing=kept))

    start = 0.0
    # Always in the same order: a version that grows takes keys from those after it, and gives none away.
    for target in sorted(message.traffic, key=lambda target: target.number):
        routing = Routing(Role.TARGET, target.weight_percent, start_percent=start)
        add(target.version, target.number, target.digest, routing)
        start += target.weight_percent
    if canary is not None:
        compared = canary.compare_percent if canary.min_agreement else 0.0
        routing = Routing(Role.CANARY, canary.percent, compared, canary.tolerance, canary.window)
        add(canary.version, canary.number, canary.digest, routing)
    if message.HasField("shadow"):
        shadow = message.shadow
        routing = Routing(Role.SHADOW, 0.0, shadow.percent, shadow.tolerance, shadow.window)
        add(shadow.version, shadow.number, shadow.digest, routing)
    if message.HasField("standby"):
        add(message.standby.version, message.standby.number, message.standby.digest, Routing(Role.STANDBY))
    return tuple(found.values())


def _replica_from_proto(worker: str, message: scheduler_pb2.Replica) -> ReplicaPlacement:
    return ReplicaPlacement(
        worker,
        _key_from_proto(message),
        resources_from_proto(message.resources),
        message.digest,
        tuple(message.aliases),
        message.epoch,
        routing=routing_from_proto(message.routing),
    )
