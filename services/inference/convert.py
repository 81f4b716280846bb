"""Between the contract's messages and the domain's types: pairs, pure, total."""

from datetime import UTC, datetime

from lepton.v1 import common_pb2, registry_pb2, scheduler_pb2
from lepton.v1 import inference_pb2 as pb
from servicekit.errors import InvalidArgument
from services.inference.domain.deployments import (
    Batching,
    Deployment,
    DeploymentState,
    ModelVersion,
    ReplicaState,
    Resources,
    SeenReplica,
)
from services.inference.domain.measurements import Measured
from services.inference.domain.tuning import Tuning, TuningMode
from services.inference.release_convert import release_to_proto
from services.inference.serving.routing import Role, Route

STATES: dict[DeploymentState, "pb.DeploymentState.ValueType"] = {
    DeploymentState.PENDING: pb.DEPLOYMENT_STATE_PENDING,
    DeploymentState.READY: pb.DEPLOYMENT_STATE_READY,
    DeploymentState.UPDATING: pb.DEPLOYMENT_STATE_UPDATING,
    DeploymentState.FAILED: pb.DEPLOYMENT_STATE_FAILED,
}
REPLICA_STATES: dict["scheduler_pb2.ReplicaState.ValueType", ReplicaState] = {
    scheduler_pb2.REPLICA_STATE_LOADING: ReplicaState.LOADING,
    scheduler_pb2.REPLICA_STATE_READY: ReplicaState.READY,
    scheduler_pb2.REPLICA_STATE_FAILED: ReplicaState.FAILED,
    scheduler_pb2.REPLICA_STATE_DRAINING: ReplicaState.DRAINING,
}

# The graph among a version's artifacts.
_MODEL = "model.onnx"

TUNING_MODES: dict["pb.TuningMode.ValueType", TuningMode | None] = {
    # Not a gap: the worker's own setting is what was wished.
    pb.TUNING_MODE_UNSPECIFIED: None,
    pb.TUNING_MODE_OFF: TuningMode.OFF,
    pb.TUNING_MODE_LOSSLESS: TuningMode.LOSSLESS,
    pb.TUNING_MODE_WITHIN_LOSS: TuningMode.WITHIN_LOSS,
}
ROLES: dict["scheduler_pb2.ReplicaRole.ValueType", Role] = {
    scheduler_pb2.REPLICA_ROLE_UNSPECIFIED: Role.SERVING,
    scheduler_pb2.REPLICA_ROLE_SERVING: Role.SERVING,
    scheduler_pb2.REPLICA_ROLE_TARGET: Role.TARGET,
    scheduler_pb2.REPLICA_ROLE_CANARY: Role.CANARY,
    scheduler_pb2.REPLICA_ROLE_SHADOW: Role.SHADOW,
    scheduler_pb2.REPLICA_ROLE_STANDBY: Role.STANDBY,
}


_BATCHINGS = {Batching.AUTO: common_pb2.BATCHING_AUTO, Batching.OFF: common_pb2.BATCHING_OFF}


def deployment_to_proto(deployment: Deployment, *, with_workspace: bool = False) -> pb.Deployment:
    """Return a deployment's message."""
    observed = deployment.observed
    message = pb.Deployment(
        name=deployment.name,
        version=deployment.version,
        number=deployment.number,
        replicas=deployment.replicas,
        ready_replicas=observed.ready_replicas,
        resources=resources_to_proto(deployment.resources),
        state=STATES[observed.state],
        message=observed.message,
        etag=deployment.etag,
        digest=deployment.digest,
        previous_number=deployment.previous_number,
        sequence=deployment.sequence,
        workspace=deployment.workspace if with_workspace else "",
        providers=observed.providers,
        tuning=tuning_to_proto(deployment.tuning),
        response_cache_bytes=deployment.response_cache_bytes,
        batching=_BATCHINGS[deployment.batching],
        declared_resources=resources_to_proto(deployment.declared),
        waiting_reason=observed.waiting_reason,
    )
    if deployment.serve_time is not None:
        message.serve_time.FromDatetime(_utc(deployment.serve_time))
    message.create_time.FromDatetime(_utc(deployment.create_time))
    message.update_time.FromDatetime(_utc(deployment.update_time))
    release_to_proto(deployment.release, message)
    return message


def resources_from_proto(message: common_pb2.Resources) -> Resources:
    """Return what a replica needs."""
    return Resources(message.cores, message.memory_bytes, message.gpus)


def resources_to_proto(resources: Resources) -> common_pb2.Resources:
    """Return the message of what a replica needs."""
    return common_pb2.Resources(cores=resources.cores, memory_bytes=resources.memory_bytes, gpus=resources.gpus)


def batching_from_proto(value: "common_pb2.Batching.ValueType") -> Batching:
    """Return whether rows of several requests may be run together; unspecified means auto.

    Raises:
        InvalidArgument: the value is unknown.
    """
    if value == common_pb2.BATCHING_UNSPECIFIED:
        return Batching.AUTO
    for known, wire in _BATCHINGS.items():
        if wire == value:
            return known
    raise InvalidArgument("unknown batching: expected BATCHING_AUTO or BATCHING_OFF", reason="BAD_BATCHING")


def tuning_from_proto(message: pb.Tuning) -> Tuning:
    """Return what is wished of execution plans.

    Raises:
        InvalidArgument: the mode is unknown.
    """
    if message.mode not in TUNING_MODES:
        raise InvalidArgument("unknown tuning mode", reason="BAD_TUNING_MODE")
    loss = message.max_quality_loss_points if message.HasField("max_quality_loss_points") else None
    return Tuning(TUNING_MODES[message.mode], loss, message.dataset)


def tuning_to_proto(tuning: Tuning) -> pb.Tuning:
    """Return the message of what is wished of execution plans."""
    modes = {mode: value for value, mode in TUNING_MODES.items()}
    return pb.Tuning(
        mode=modes[tuning.mode], max_quality_loss_points=tuning.max_quality_loss_points, dataset=tuning.dataset
    )


def version_from_proto(message: registry_pb2.Version) -> ModelVersion:
    """Return a version as the registry has it."""
    loaded = {_MODEL, *message.weight_files}
    size = sum(artifact.size_bytes for artifact in message.artifacts if artifact.name in loaded)
    is_ready = message.state == registry_pb2.VERSION_STATE_READY
    inputs = tuple((spec.name, spec.datatype, tuple(spec.shape)) for spec in message.signature.inputs)
    return ModelVersion(
        message.model,
        message.number,
        message.digest,
        size,
        is_ready,
        inputs,
        pretrained=message.pretrained,
        is_deleting=message.deleting,
    )


def seen_from_proto(worker: str, message: scheduler_pb2.Replica) -> SeenReplica:
    """Return a replica that a worker reports.

    Raises:
        InvalidArgument: its state is unknown.
    """
    if message.state not in REPLICA_STATES:
        raise InvalidArgument("unknown replica state", reason="BAD_STATE")
    state = REPLICA_STATES[message.state]
    return SeenReplica(worker, message.number, message.digest, state, message.message, message.provider)


def measured_from_proto(message: scheduler_pb2.ReplicaStatistics) -> Measured:
    """Return what came of a replica's requests."""
    return Measured(
        message.window,
        message.seconds,
        message.requests,
        dict(message.errors),
        message.latency_seconds,
        tuple(message.latency_buckets),
        message.compared,
        message.agreed,
        message.compare_failed,
        message.compare_dropped,
        message.batching,
    )


def measured_to_proto(measured: Measured) -> scheduler_pb2.ReplicaStatistics:
    """Return the message of what came of a replica's requests."""
    return scheduler_pb2.ReplicaStatistics(
        window=measured.window,
        seconds=measured.seconds,
        requests=measured.requests,
        errors=measured.errors,
        latency_seconds=measured.latency_seconds,
        latency_buckets=measured.buckets,
        compared=measured.compared,
        agreed=measured.agreed,
        compare_failed=measured.compare_failed,
        compare_dropped=measured.compare_dropped,
        batching=measured.batching,
    )


def route_from_proto(message: scheduler_pb2.ReplicaRouting) -> Route:
    """Return which requests a replica takes; a scheduler of before says nothing, and means all."""
    return Route(
        ROLES.get(message.role, Role.SERVING),
        message.weight_percent,
        message.compare_percent,
        message.tolerance,
        message.window,
        message.start_percent,
        message.response_cache_bytes,
    )


def _utc(time: datetime) -> datetime:
    # SQLite forgets the zone; what it holds is UTC.
    return time if time.tzinfo else time.replace(tzinfo=UTC)
