"""Deployments: what should be served, and how far that is true."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

from servicekit.errors import Aborted, FailedPrecondition, InvalidArgument
from services.inference.domain.release import CanaryState, Release, Standby
from services.inference.domain.tuning import Tuning

# What an undeclared reservation begins with: most models wait most of the time, and two cores serve hundreds of them.
LEAST_CORES = 0.002
LEAST_MEMORY_BYTES = 4 << 20
_MEMORY_FACTOR = 4
_NOTHING_SERVES = "no replica serves yet: is there a worker with room? (lepton workers list)"


class DeploymentState(Enum):
    """Where a deployment stands."""

    PENDING = "PENDING"
    READY = "READY"
    UPDATING = "UPDATING"
    FAILED = "FAILED"


class ReplicaState(Enum):
    """Where a replica stands on its worker."""

    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"
    DRAINING = "DRAINING"


@dataclass(frozen=True)
class Resources:
    """What a replica needs: cores, bytes, devices."""

    cores: float = 0.0
    memory_bytes: int = 0
    gpus: float = 0.0


@dataclass(frozen=True)
class ModelVersion:
    """A version as the registry has it.

    Args:
        model, number, digest: which one it is.
        size_bytes: of its ONNX file and the files that this reads weights from.
        is_ready: whether it may be served.
        inputs: (name, datatype, shape) of what it takes; -1 for a variable dimension.
        pretrained: whether it is weights that a fit begins from, and no model.
        is_deleting: whether it is about to be deleted.
    """

    model: str
    number: int
    digest: str
    size_bytes: int
    is_ready: bool
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    pretrained: bool = False
    is_deleting: bool = False

    @property
    def ref(self) -> str:
        """name@number."""
        return f"{self.model}@{self.number}"


@dataclass(frozen=True)
class Observed:
    """How far a deployment is true.

    Args:
        state: where it stands.
        ready_replicas: of the wanted number, that serve.
        message: why, for people.
        providers: execution provider by worker.
        waiting_reason: why replicas have no worker, stable; empty where they have one.
    """

    state: DeploymentState = DeploymentState.PENDING
    ready_replicas: int = 0
    message: str = _NOTHING_SERVES
    providers: dict[str, str] = field(default_factory=dict)
    waiting_reason: str = ""


@dataclass(frozen=True)
class Waiting:
    """Why replicas of a deployment have no worker, by the scheduler.

    Args:
        reason: stable: NO_WORKER, TOO_LARGE, NO_ROOM, FEWER_WORKERS or LOAD_FAILED.
        message: what is missing, for people.
    """

    reason: str
    message: str


class Batching(Enum):
    """Whether rows of several requests may be run together; see lepton.v1.Batching."""

    AUTO = "auto"
    OFF = "off"


@dataclass(frozen=True)
class Deployment:
    """What should be served.

    Args:
        workspace, name: which one it is.
        version: name@number, or name@alias, which is followed.
        number, digest: what the version resolves to.
        replicas: wanted, at least.
        resources: that a replica reserves.
        previous_number: served before; 0 for none.
        etag: changes with what is wanted.
        sequence: counts changes of what is wanted and of what is so.
        observed: how far it is true.
        create_time, update_time: when it was made, and when what is wanted changed last.
        tuning: what is wished of execution plans.
        response_cache_bytes: that each worker may keep of its answers; 0 for none.
        batching: whether rows of several requests may be run together.
        release: what stands beside the version.
        declared: resources that were declared; zeros for those whose reservation follows measurement.
        serve_time: when it served for the first time; None while it never did.
    """

    workspace: str
    name: str
    version: str
    number: int
    digest: str
    replicas: int
    resources: Resources
    previous_number: int
    etag: str
    sequence: int
    observed: Observed
    create_time: datetime
    update_time: datetime
    release: Release = field(default_factory=Release)
    tuning: Tuning = field(default_factory=Tuning, kw_only=True)
    response_cache_bytes: int = field(default=0, kw_only=True)
    batching: Batching = field(default=Batching.AUTO, kw_only=True)
    declared: Resources = field(default_factory=Resources, kw_only=True)
    serve_time: datetime | None = field(default=None, kw_only=True)

    @property
    def ref(self) -> str:
        """The version that the reference resolved to, as name@number."""
        return f"{self.model}@{self.number}"

    @property
    def model(self) -> str:
        """The model's id."""
        return self.version.partition("@")[0]

    @property
    def follows_alias(self) -> bool:
        """Whether the version is an alias."""
        return not self.version.partition("@")[2].isdecimal()


@dataclass(frozen=True)
class SeenReplica:
    """A replica that a worker reports.

    Args:
        worker: its id.
        number, digest: the version's: a deployment may move to another model's version of the same number.
        state, message, provider: as reported.
    """

    worker: str
    number: int
    digest: str
    state: ReplicaState
    message: str
    provider: str


def check_ready(version: ModelVersion) -> None:
    """Check that a version may be served.

    Raises:
        FailedPrecondition: it is not READY, or no model.
    """
    if version.pretrained:
        raise FailedPrecondition(
            f"{version.ref} is pretrained weights and cannot be served: fine-tune it first",
            reason="VERSION_IS_PRETRAINED",
        )
    check_stays(version)
    if not version.is_ready:
        raise FailedPrecondition(f"{version.ref} is not READY and cannot be served", reason="VERSION_NOT_READY")


def check_stays(version: ModelVersion) -> None:
    """Check that a version is not about to be deleted.

    Raises:
        FailedPrecondition: it is.
    """
    if version.is_deleting:
        raise FailedPrecondition(
            f"{version.ref} is being deleted and cannot be used: choose another version", reason="VERSION_BEING_DELETED"
        )


def check_etag(deployment: Deployment, etag: str) -> None:
    """Check that a deployment is as the caller saw it last.

    Raises:
        Aborted: it changed meanwhile.
    """
    if etag and etag != deployment.etag:
        raise Aborted(
            f"deployment {deployment.name!r} changed since you looked: read it again, then decide",
            reason="ETAG_MISMATCH",
            metadata={"etag": deployment.etag},
        )


def with_defaults(resources: Resources, version: ModelVersion) -> Resources:
    """Return what a replica reserves before it is measured: what is declared, else little, by the model's size."""
    memory_bytes = LEAST_MEMORY_BYTES + _MEMORY_FACTOR * version.size_bytes
    return Resources(resources.cores or LEAST_CORES, resources.memory_bytes or memory_bytes, resources.gpus)


def check_resources(resources: Resources) -> None:
    """Check that declared resources can be reserved.

    Raises:
        InvalidArgument: one is negative, or no number; the violations name all of them.
    """
    values = (("cores", resources.cores), ("memory_bytes", resources.memory_bytes), ("gpus", resources.gpus))
    bad = [
        (f"deployment.resources.{name}", "must be 0 or more, and finite")
        for name, value in values
        if not _is_amount(value)
    ]
    if bad:
        named = ", ".join(field.rpartition(".")[2] for field, _ in bad)
        raise InvalidArgument(
            f"resources cannot be reserved: {named} must be 0 (undeclared) or more, and finite",
            reason="BAD_RESOURCES",
            violations=bad,
        )


def _is_amount(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def serve_version(
    deployment: Deployment,
    ref: str,
    version: ModelVersion,
    *,
    now: datetime | None = None,
    standby_seconds: float = 0.0,
) -> Deployment:
    """Return a deployment that serves another version: alone, but for a shadow.

    Args:
        deployment: as it is.
        ref: the version as it was named.
        version: what that means.
        now: the time; needed for a standby.
        standby_seconds: how long the present version stays loaded for a rollback; 0 for not at all.
    """
    if version.number == deployment.number and version.digest == deployment.digest:
        return replace(deployment, version=ref)
    standby = None
    if now is not None and standby_seconds and version.number != deployment.number:
        expire_time = now + timedelta(seconds=standby_seconds)
        standby = Standby(deployment.ref, deployment.number, deployment.digest, expire_time)
    # A larger version must find room; what it is measured to use follows.
    resources = with_defaults(deployment.declared, version)
    memory_bytes = max(resources.memory_bytes, deployment.resources.memory_bytes)
    return replace(
        deployment,
        version=ref,
        number=version.number,
        digest=version.digest,
        resources=replace(deployment.resources, memory_bytes=deployment.declared.memory_bytes or memory_bytes),
        previous_number=deployment.number if version.model == deployment.model else 0,
        observed=replace(deployment.observed, state=DeploymentState.UPDATING, ready_replicas=0),
        release=_superseded(deployment, version, standby),
    )


def _superseded(deployment: Deployment, version: ModelVersion, standby: Standby | None) -> Release:
    """Return what is left of a release once another version is the deployment's own."""
    release, canary = deployment.release, deployment.release.canary
    if canary is not None and canary.is_running:
        why = f"ended: version {version.number} was deployed meanwhile"
        canary = replace(canary, state=CanaryState.ROLLED_BACK, percent=0.0, message=why)
    shadow = release.shadow
    if shadow is not None and shadow.number == version.number:
        shadow = None
    return Release((), canary, shadow, standby, deployment.ref, release.windows)


def previous_ref(deployment: Deployment) -> str:
    """Return the version served before, as name@number: a rollback pins it, and no longer follows an alias.

    Raises:
        FailedPrecondition: there is none.
    """
    if deployment.release.previous:
        return deployment.release.previous
    if not deployment.previous_number:
        raise FailedPrecondition(
            f"deployment {deployment.name!r} never served another version", reason="NOTHING_TO_ROLL_BACK"
        )
    return f"{deployment.model}@{deployment.previous_number}"


def observe(deployment: Deployment, replicas: Iterable[SeenReplica], waiting: Waiting | None = None) -> Observed:
    """Return how far a deployment is true: the same for the same reports.

    Args:
        deployment: which one.
        replicas: what workers report.
        waiting: why some of its replicas have no worker; None where all have one.
    """
    seen = list(replicas)
    wanted = [replica for replica in seen if _is_wanted(replica, deployment)]
    ready = [replica for replica in wanted if replica.state is ReplicaState.READY]
    providers = {replica.worker: replica.provider for replica in sorted(ready, key=lambda item: item.worker)}
    holders = {replica.worker for replica in ready}
    others = [item for item in seen if item.state is ReplicaState.READY and not _is_wanted(item, deployment)]
    # Workers that answer with another version, for they do not serve the wanted one yet.
    behind = {item.number for item in others if item.worker not in holders}
    if len(ready) >= deployment.replicas and not behind:
        return Observed(DeploymentState.READY, len(ready), "", providers)
    reason = waiting.reason if waiting is not None else ""
    failed = [replica for replica in wanted if replica.state is ReplicaState.FAILED]
    lacks = f"; {waiting.message}" if waiting is not None else ""
    lacks += (
        f"; version {deployment.number} cannot be loaded on {failed[0].worker}: {failed[0].message}" if failed else ""
    )
    if failed and not ready:
        message = f"version {deployment.number} cannot be loaded on {failed[0].worker}: {failed[0].message}"
        return Observed(DeploymentState.FAILED, 0, message, {}, reason)
    if ready or behind:
        serving = f"{len(ready)} of {deployment.replicas} serve"
        if behind:
            serving = f"version {max(behind)} serves meanwhile"
        return Observed(DeploymentState.UPDATING, len(ready), serving + lacks, providers, reason)
    if any(replica.state is ReplicaState.LOADING for replica in wanted):
        return Observed(DeploymentState.PENDING, 0, "loading", {})
    message = waiting.message if waiting is not None else _NOTHING_SERVES
    return Observed(DeploymentState.PENDING, 0, message, {}, reason)


@dataclass(frozen=True)
class Absence:
    """Why no worker serves a deployment now.

    Args:
        reason: stable: DEPLOYMENT_LOADING, DEPLOYMENT_FAILED, or a waiting reason.
        message: the same, for people.
    """

    reason: str
    message: str


def absence(deployment: Deployment) -> Absence:
    """Return why no worker serves a deployment now."""
    observed, what = deployment.observed, f"deployment '{deployment.name}'"
    if observed.state is DeploymentState.FAILED:
        return Absence("DEPLOYMENT_FAILED", f"{what} cannot be served: {observed.message}")
    if observed.waiting_reason:
        return Absence(observed.waiting_reason, f"{what} is not placed: {observed.message}")
    return Absence("DEPLOYMENT_LOADING", f"{what} is loading: try again shortly")


def names_version(deployment: Deployment, version: str) -> bool:
    """Return whether a number or an alias names a version that a deployment wants served."""
    release = deployment.release
    numbers = {deployment.number, *(target.number for target in release.traffic)}
    others = (release.running_canary, release.shadow, release.standby)
    numbers |= {item.number for item in others if item is not None}
    if version.isdecimal():
        return version in {str(number) for number in numbers}
    return deployment.follows_alias and version == deployment.version.partition("@")[2]


def _is_wanted(replica: SeenReplica, deployment: Deployment) -> bool:
    return (replica.number, replica.digest) == (deployment.number, deployment.digest)
