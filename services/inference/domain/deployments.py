"""Deployments: what should be served, and how far that is true."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

from servicekit.errors import Aborted, FailedPrecondition
from services.inference.domain.release import CanaryState, Release, Standby
from services.inference.domain.tuning import Tuning

_LEAST_MEMORY_BYTES = 64 << 20
_MEMORY_FACTOR = 4
# Most models wait most of the time: a laptop of two cores should serve twenty of them.
_DEFAULT_CORES = 0.1


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
    """

    model: str
    number: int
    digest: str
    size_bytes: int
    is_ready: bool
    inputs: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    pretrained: bool = False

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
    """

    state: DeploymentState = DeploymentState.PENDING
    ready_replicas: int = 0
    message: str = "no replica serves yet"
    providers: dict[str, str] = field(default_factory=dict)


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
        resources: of a replica.
        previous_number: served before; 0 for none.
        etag: changes with what is wanted.
        sequence: counts changes of what is wanted and of what is so.
        observed: how far it is true.
        create_time, update_time: when it was made, and when what is wanted changed last.
        tuning: what is wished of execution plans.
        response_cache_bytes: that each worker may keep of its answers; 0 for none.
        batching: whether rows of several requests may be run together.
        release: what stands beside the version.
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
    if not version.is_ready:
        raise FailedPrecondition(f"{version.ref} is not READY and cannot be served", reason="VERSION_NOT_READY")


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
    """Return what a replica needs, with defaults by the model's size."""
    memory_bytes = max(_LEAST_MEMORY_BYTES, _MEMORY_FACTOR * version.size_bytes)
    return Resources(resources.cores or _DEFAULT_CORES, resources.memory_bytes or memory_bytes, resources.gpus)


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
    return replace(
        deployment,
        version=ref,
        number=version.number,
        digest=version.digest,
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


def observe(deployment: Deployment, replicas: Iterable[SeenReplica]) -> Observed:
    """Return how far a deployment is true, from what workers report: the same for the same reports."""
    seen = list(replicas)
    wanted = [replica for replica in seen if _is_wanted(replica, deployment)]
    ready = [replica for replica in wanted if replica.state is ReplicaState.READY]
    providers = {replica.worker: replica.provider for replica in sorted(ready, key=lambda item: item.worker)}
    if len(ready) >= deployment.replicas:
        return Observed(DeploymentState.READY, len(ready), "", providers)
    older = {
        replica.number
        for replica in seen
        if replica.state is ReplicaState.READY and not _is_wanted(replica, deployment)
    }
    failed = [replica for replica in wanted if replica.state is ReplicaState.FAILED]
    if failed and not ready:
        message = f"version {deployment.number} cannot be loaded on {failed[0].worker}: {failed[0].message}"
        return Observed(DeploymentState.FAILED, 0, message, {})
    if ready or older:
        serving = f"version {max(older)} serves meanwhile" if older else f"{len(ready)} of {deployment.replicas} serve"
        return Observed(DeploymentState.UPDATING, len(ready), serving, providers)
    loading = any(replica.state is ReplicaState.LOADING for replica in wanted)
    message = "loading" if loading else "no replica serves yet: is there a worker with room? (lepton workers list)"
    return Observed(DeploymentState.PENDING, 0, message, {})


def _is_wanted(replica: SeenReplica, deployment: Deployment) -> bool:
    return (replica.number, replica.digest) == (deployment.number, deployment.digest)
