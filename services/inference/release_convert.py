"""Releases between the contract's messages, the domain's types and what SQL keeps: pairs, pure, total."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from lepton.v1 import inference_pb2 as pb
from services.inference.domain.measurements import Measured
from services.inference.domain.release import Canary, CanaryState, Release, Shadow, Standby, TrafficTarget

CANARY_STATES: dict[CanaryState, "pb.CanaryState.ValueType"] = {
    CanaryState.RUNNING: pb.CANARY_STATE_RUNNING,
    CanaryState.PROMOTED: pb.CANARY_STATE_PROMOTED,
    CanaryState.ROLLED_BACK: pb.CANARY_STATE_ROLLED_BACK,
}
_STEPS = (5.0, 25.0, 50.0)
_STEP_SECONDS = 60.0
_MIN_REQUESTS = 100
_ERROR_RATE_INCREASE = 0.01
_LATENCY_RATIO = 1.5
_COMPARE_PERCENT = 10.0
_TOLERANCE = 0.01
_SHADOW_PERCENT = 100.0
_P99 = 0.99


def canary_from_proto(message: pb.Canary, now: datetime) -> Canary:
    """Return what a canary is to be held to, with defaults; what the platform sets is left at its beginning."""
    return Canary(
        message.version,
        message.number,
        message.digest,
        message.percent,
        tuple(message.steps) or _STEPS,
        message.step_seconds or _STEP_SECONDS,
        message.min_requests or _MIN_REQUESTS,
        message.max_error_rate_increase if message.HasField("max_error_rate_increase") else _ERROR_RATE_INCREASE,
        message.max_latency_ratio if message.HasField("max_latency_ratio") else _LATENCY_RATIO,
        message.min_agreement,
        message.compare_percent or _COMPARE_PERCENT,
        message.tolerance or _TOLERANCE,
        CanaryState.RUNNING,
        "",
        0,
        now,
        now,
    )


def shadow_from_proto(message: pb.Shadow) -> Shadow:
    """Return a shadow, with defaults."""
    percent, tolerance = message.percent or _SHADOW_PERCENT, message.tolerance or _TOLERANCE
    return Shadow(message.version, message.number, message.digest, percent, tolerance, message.window)


def release_to_proto(release: Release, message: pb.Deployment) -> None:
    """Write a release into a deployment's message."""
    for target in release.traffic:
        message.traffic.add(**asdict(target))
    if release.canary is not None:
        message.canary.CopyFrom(_canary_to_proto(release.canary))
    if release.shadow is not None:
        message.shadow.CopyFrom(pb.Shadow(**asdict(release.shadow)))
    if (standby := release.standby) is not None:
        message.standby.CopyFrom(pb.Standby(version=standby.version, number=standby.number, digest=standby.digest))
        message.standby.expire_time.FromDatetime(standby.expire_time)


def statistics_to_proto(number: int, digest: str, ready_replicas: int, measured: Measured) -> pb.VersionStatistics:
    """Return the message of what a version has done."""
    return pb.VersionStatistics(
        number=number,
        digest=digest,
        ready_replicas=ready_replicas,
        requests=measured.requests,
        errors=measured.errors,
        mean_latency_seconds=measured.mean_seconds,
        p99_latency_seconds=measured.quantile_seconds(_P99),
        compared=measured.compared,
        agreed=measured.agreed,
        compare_failed=measured.compare_failed,
        compare_dropped=measured.compare_dropped,
        batching=measured.batching,
    )


def release_to_json(release: Release) -> str:
    """Return a release as SQL keeps it."""
    return json.dumps(asdict(release), default=_json_value, sort_keys=True)


def release_from_json(text: str) -> Release:
    """Return a release as SQL kept it."""
    values = json.loads(text)
    return Release(
        tuple(TrafficTarget(**target) for target in values.get("traffic", ())),
        _canary_from_json(values.get("canary")),
        Shadow(**values["shadow"]) if values.get("shadow") else None,
        Standby(**_with_times(values["standby"], "expire_time")) if values.get("standby") else None,
        values.get("previous", ""),
        values.get("windows", 0),
    )


def _canary_to_proto(canary: Canary) -> pb.Canary:
    plain = {**asdict(canary), "state": CANARY_STATES[canary.state]}
    times = {name: plain.pop(name) for name in ("create_time", "update_time")}
    message = pb.Canary(**plain)
    message.create_time.FromDatetime(times["create_time"])
    message.update_time.FromDatetime(times["update_time"])
    return message


def _canary_from_json(values: dict[str, Any] | None) -> Canary | None:
    if not values:
        return None
    timed = _with_times(values, "create_time", "update_time")
    return Canary(**{**timed, "state": CanaryState(values["state"]), "steps": tuple(values["steps"])})


def _with_times(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**values, **{name: datetime.fromisoformat(values[name]) for name in names}}


def _json_value(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    assert isinstance(value, CanaryState)
    return value.value
