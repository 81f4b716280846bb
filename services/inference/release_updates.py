"""What an update changes of a release: its versions are resolved first, outside of the transaction that applies it."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from lepton.v1 import inference_pb2 as pb
from servicekit.errors import Aborted, InvalidArgument
from services.inference.domain.deployments import Deployment, ModelVersion
from services.inference.domain.releasing import end_canary, set_shadow, set_traffic, start_canary
from services.inference.ports import Registry
from services.inference.release_convert import canary_from_proto, shadow_from_proto

RELEASE_PATHS = ("traffic", "canary", "shadow")
_ENDED = "ended by hand"


@dataclass(frozen=True)
class ReleaseUpdate:
    """The part of an update that is about a release.

    Args:
        given: the deployment with its new values.
        paths: which of traffic, canary and shadow change.
        traffic: the versions of a split with their shares, percent.
        canary, shadow: their versions; None where they end.
    """

    given: pb.Deployment
    paths: frozenset[str]
    traffic: tuple[tuple[ModelVersion, float], ...] = ()
    canary: ModelVersion | None = None
    shadow: ModelVersion | None = None

    @classmethod
    async def resolve(cls, registry: Registry, given: pb.Deployment, paths: Collection[str]) -> Self:
        """Look the versions up that an update names.

        Raises:
            NotFound: there is no such version.
        """
        chosen = frozenset(paths) & set(RELEASE_PATHS)
        canary, shadow = None, None
        targets = given.traffic if "traffic" in chosen else ()
        traffic = [(await registry.resolve(target.version), target.weight_percent) for target in targets]
        if "canary" in chosen and given.HasField("canary"):
            canary = await registry.resolve(given.canary.version)
        if "shadow" in chosen and given.HasField("shadow"):
            shadow = await registry.resolve(given.shadow.version)
        return cls(given, chosen, tuple(traffic), canary, shadow)

    def apply(self, deployment: Deployment, own: ModelVersion, now: datetime) -> Deployment:
        """Return a deployment as the update wants it.

        Args:
            deployment: as it is, with the version that the same update names.
            own: that version.
            now: the time.

        Raises:
            Aborted: its version is another one by now.
            InvalidArgument, FailedPrecondition: see `domain.releasing`.
        """
        if self.paths and (own.number, own.digest) != (deployment.number, deployment.digest):
            raise Aborted(
                f"deployment {deployment.name!r} serves another version by now: read it again, then decide",
                reason="ETAG_MISMATCH",
                metadata={"etag": deployment.etag},
            )
        if "canary" in self.paths and self.canary is None:
            deployment = end_canary(deployment, _ENDED, now)
        if "traffic" in self.paths:
            deployment = set_traffic(deployment, own, self.traffic)
        if self.canary is not None:
            deployment = start_canary(deployment, own, self.canary, canary_from_proto(self.given.canary, now))
        if "shadow" in self.paths:
            deployment = set_shadow(deployment, own, self.shadow, shadow_from_proto(self.given.shadow))
        return deployment


def refuse_release(given: pb.Deployment) -> None:
    """Refuse a release for a deployment that does not exist yet.

    Raises:
        InvalidArgument: one is given.
    """
    is_set = {"traffic": bool(given.traffic), "canary": given.HasField("canary"), "shadow": given.HasField("shadow")}
    named = [path for path in RELEASE_PATHS if is_set[path]]
    if named:
        raise InvalidArgument(
            f"a new deployment serves one version: set {', '.join(named)} by UpdateDeployment once it serves",
            reason="BAD_RELEASE",
            violations=[(f"deployment.{path}", "cannot be set on creation") for path in named],
        )
