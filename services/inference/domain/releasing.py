"""What can be done with a release: split, canary, shadow, promote, end. Each returns the deployment as it is then."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from servicekit.errors import FailedPrecondition, InvalidArgument
from services.inference.domain.canary import Decision, Verdict
from services.inference.domain.deployments import Deployment, ModelVersion, check_ready, serve_version
from services.inference.domain.release import Canary, CanaryState, Release, Shadow, TrafficTarget

_SLACK_PERCENT = 1e-6


def set_traffic(deployment: Deployment, own: ModelVersion, targets: Sequence[tuple[ModelVersion, float]]) -> Deployment:
    """Return a deployment whose requests are split.

    Args:
        deployment: as it is.
        own: its own version, which takes the rest.
        targets: the others with their shares, percent; none ends a split.

    Raises:
        InvalidArgument: the shares are none, or a version is named twice.
        FailedPrecondition: a canary runs, or a version cannot take the deployment's requests.
    """
    if targets:
        _refuse_canary(deployment)
    for _, percent in targets:
        _check_percent("traffic.weight_percent", percent, 0.0, 100.0)
    if sum(percent for _, percent in targets) > 100.0 + _SLACK_PERCENT:
        raise _bad("traffic", f"sum to at most 100 percent, got {sum(percent for _, percent in targets):g}")
    traffic = tuple(TrafficTarget(version.ref, version.number, version.digest, percent) for version, percent in targets)
    release = replace(deployment.release, traffic=traffic)
    return _checked(deployment, own, release, (version for version, _ in targets))


def start_canary(deployment: Deployment, own: ModelVersion, version: ModelVersion, wish: Canary) -> Deployment:
    """Return a deployment whose canary begins with its first step.

    Args:
        deployment: as it is.
        own: its own version.
        version: the canary's.
        wish: what it is held to; its version, state and share are set here.

    Raises:
        InvalidArgument: the steps are none.
        FailedPrecondition: another canary runs, requests are split, or the version cannot take them.
    """
    _refuse_canary(deployment)
    if deployment.release.traffic:
        raise FailedPrecondition(
            f"deployment {deployment.name!r} is split: end the split before a canary begins", reason="SPLIT_UNDER_WAY"
        )
    for percent in wish.steps:
        _check_percent("canary.steps", percent, 0.0, 100.0)
    if not wish.steps or wish.steps[0] <= 0 or wish.steps[-1] >= 100 or sorted(set(wish.steps)) != list(wish.steps):
        raise _bad("canary.steps", f"rise, above 0 and below 100 percent, got {', '.join(map(str, wish.steps))}")
    for name in ("step_seconds", "max_latency_ratio", "tolerance"):
        if not math.isfinite(getattr(wish, name)):
            raise _bad(f"canary.{name}", "be a number")
    window = deployment.release.windows + 1
    canary = replace(
        wish,
        version=version.ref,
        number=version.number,
        digest=version.digest,
        percent=wish.steps[0],
        state=CanaryState.RUNNING,
        message="begins",
        window=window,
    )
    release = replace(deployment.release, canary=canary, windows=window)
    return _checked(deployment, own, release, [version])


def end_canary(deployment: Deployment, message: str, now: datetime) -> Deployment:
    """Return a deployment whose canary answers nothing any more; the same where none runs."""
    canary = deployment.release.running_canary
    if canary is None:
        return deployment
    ended = replace(canary, state=CanaryState.ROLLED_BACK, percent=0.0, message=message, update_time=now)
    return replace(deployment, release=replace(deployment.release, canary=ended))


def promote_canary(deployment: Deployment, message: str, now: datetime, standby_seconds: float) -> Deployment:
    """Return a deployment whose own version is the canary's.

    Raises:
        FailedPrecondition: no canary runs.
    """
    canary = running_canary(deployment)
    model = canary.version.partition("@")[0]
    version = ModelVersion(model, canary.number, canary.digest, 0, is_ready=True)
    promoted = serve_version(deployment, canary.version, version, now=now, standby_seconds=standby_seconds)
    done = replace(canary, state=CanaryState.PROMOTED, percent=0.0, message=message, update_time=now)
    return replace(promoted, release=replace(promoted.release, canary=done))


def running_canary(deployment: Deployment) -> Canary:
    """Return the canary that runs.

    Raises:
        FailedPrecondition: none does.
    """
    if deployment.release.running_canary is None:
        raise FailedPrecondition(f"no canary of deployment {deployment.name!r} runs", reason="NO_CANARY")
    return deployment.release.running_canary


def advance(deployment: Deployment, decision: Decision, now: datetime, standby_seconds: float) -> Deployment:
    """Return a deployment after a decision on its canary."""
    canary = running_canary(deployment)
    match decision.verdict:
        case Verdict.WAIT:
            return deployment
        case Verdict.ROLL_BACK:
            return end_canary(deployment, decision.message, now)
        case Verdict.PROMOTE:
            return promote_canary(deployment, decision.message, now, standby_seconds)
    window = deployment.release.windows + 1
    percent = canary.steps[canary.step + 1]
    grown = replace(canary, percent=percent, message=decision.message, window=window, update_time=now)
    return replace(deployment, release=replace(deployment.release, canary=grown, windows=window))


def set_shadow(deployment: Deployment, own: ModelVersion, version: ModelVersion | None, wish: Shadow) -> Deployment:
    """Return a deployment with a shadow, or without one.

    Args:
        deployment: as it is.
        own: its own version.
        version: the shadow's; None ends it.
        wish: the share and the tolerance.

    Raises:
        InvalidArgument: the share is none.
        FailedPrecondition: the version cannot take the deployment's requests.
    """
    if version is None:
        return replace(deployment, release=replace(deployment.release, shadow=None))
    _check_percent("shadow.percent", wish.percent, 0.0, 100.0)
    if not math.isfinite(wish.tolerance):
        raise _bad("shadow.tolerance", "be a number")
    window = deployment.release.windows + 1
    shadow = replace(wish, version=version.ref, number=version.number, digest=version.digest, window=window)
    return _checked(deployment, own, replace(deployment.release, shadow=shadow, windows=window), [version])


def is_shared(deployment: Deployment) -> bool:
    """Return whether other versions than a deployment's own answer requests: what a rollback ends first."""
    return bool(deployment.release.traffic) or deployment.release.running_canary is not None


def end_sharing(deployment: Deployment, message: str, now: datetime) -> Deployment:
    """Return a deployment whose own version answers alone."""
    ended = end_canary(deployment, message, now)
    return replace(ended, release=replace(ended.release, traffic=()))


def without_expired(deployment: Deployment, now: datetime) -> Deployment:
    """Return a deployment without a standby whose time is over."""
    standby = deployment.release.standby
    if standby is None or standby.expire_time > now:
        return deployment
    return replace(deployment, release=replace(deployment.release, standby=None))


def _checked(deployment: Deployment, own: ModelVersion, release: Release, added: Iterable[ModelVersion]) -> Deployment:
    """Return a deployment with a release, once its versions may stand side by side."""
    numbers = [deployment.number, *(number for _, number, _ in release.beside())]
    twice = next((number for number in numbers if numbers.count(number) > 1), None)
    if twice is not None:
        # Clients name a version by its number: two of one number could not be told apart.
        raise InvalidArgument(
            f"two versions of the number {twice} cannot stand side by side in deployment {deployment.name!r}: "
            "each number has one place, as the deployment's own, in a split, as a canary or as a shadow",
            reason="NUMBER_TAKEN",
        )
    for version in added:
        check_ready(version)
        _check_inputs(own, version)
    standby = release.standby
    if standby is not None and any(
        number == standby.number and digest != standby.digest for _, number, digest in release.beside()
    ):
        release = replace(release, standby=None)
    return replace(deployment, release=release)


def _check_inputs(own: ModelVersion, version: ModelVersion) -> None:
    one, other = ({name: (kind, shape) for name, kind, shape in item.inputs} for item in (own, version))
    different = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    if different:
        raise FailedPrecondition(
            f"{version.ref} does not take the inputs of {own.ref} (they differ in {', '.join(different[:5])}): "
            "requests for the one cannot go to the other; give it a deployment of its own",
            reason="DIFFERENT_INPUTS",
        )


def _refuse_canary(deployment: Deployment) -> None:
    if deployment.release.running_canary is not None:
        raise FailedPrecondition(
            f"a canary of deployment {deployment.name!r} runs: promote or abort it first", reason="CANARY_RUNNING"
        )


def _check_percent(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise _bad(field, f"be from {least:g} to {most:g} percent, got {value:g}")


def _bad(field: str, expected: str) -> InvalidArgument:
    return InvalidArgument(f"{field} must {expected}", reason="BAD_RELEASE", violations=[(field, f"must {expected}")])
