"""Releases: what stands beside a deployment's own version, in words that a person would use.

deployment = Deploy("credit")
deployment.split({"credit@4": 10})  # one request in ten; the deployment's own version takes the rest
deployment.canary("credit@4", steps=(5, 25, 50), step_seconds=600)
deployment.shadow("credit@4")
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lepton.arguments import as_list, build, one_of, to_json_value, to_mapping
from lepton.v1 import inference_pb2

__all__ = ["to_canary", "to_traffic", "versions_frame"]

_RULES = (
    *("step_seconds", "min_requests", "max_error_rate_increase", "max_latency_ratio", "min_agreement"),
    *("compare_percent", "tolerance"),
)
_COLUMNS = [
    "number",
    "role",
    "percent",
    "replicas",
    "requests",
    "failed",
    "mean_ms",
    "p99_ms",
    "compared",
    "agreement",
    "batching",
]


def to_traffic(shares: Mapping[str, float]) -> list[inference_pb2.TrafficTarget]:
    """Return a split.

    Args:
        shares: percent by version, name@number or name@alias.
    """
    given = to_mapping(shares, "shares")
    return [build(inference_pb2.TrafficTarget, version=ref, weight_percent=percent) for ref, percent in given.items()]


def to_canary(version: str, steps: Sequence[float] = (), **rules: Any) -> inference_pb2.Canary:
    """Return a canary.

    Args:
        version: name@number or name@alias.
        steps: its shares, percent, rising; by default 5, 25, 50.
        rules: step_seconds, min_requests, max_error_rate_increase, max_latency_ratio, min_agreement, compare_percent,
            tolerance: as lepton.v1.Canary has them; those that are None keep their defaults.

    Raises:
        InvalidArgument: a rule is unknown or no number.
    """
    given = {name: value for name, value in rules.items() if value is not None}
    for name in given:
        one_of(name, _RULES, "rule")
    shares = [to_json_value(step, "steps") for step in as_list(steps, "steps")]
    return build(inference_pb2.Canary, version=version, steps=shares, **given)


def versions_frame(deployment: inference_pb2.Deployment) -> pd.DataFrame:
    """Return one row for each version that workers hold: its share, and what it did."""
    rows = []
    for item in deployment.statistics:
        role, percent = _share(deployment, item.number)
        compared = item.compared + item.compare_failed
        rows.append(
            {
                "number": item.number,
                "role": role,
                "percent": percent,
                "replicas": item.ready_replicas,
                "requests": item.requests,
                "failed": sum(item.errors.values()),
                "mean_ms": item.mean_latency_seconds * 1000,
                "p99_ms": item.p99_latency_seconds * 1000,
                "compared": item.compared,
                "agreement": item.agreed / compared if compared else float("nan"),
                "batching": item.batching,
            }
        )
    return pd.DataFrame(rows, columns=_COLUMNS)


def _share(deployment: inference_pb2.Deployment, number: int) -> tuple[str, float]:
    canary = deployment.canary if deployment.canary.state == inference_pb2.CANARY_STATE_RUNNING else None
    beside = sum(target.weight_percent for target in deployment.traffic) + (canary.percent if canary else 0.0)
    if number == deployment.number:
        return "serving", 100.0 - beside
    if canary is not None and number == canary.number:
        return "canary", canary.percent
    for target in deployment.traffic:
        if target.number == number:
            return "split", target.weight_percent
    if deployment.HasField("shadow") and number == deployment.shadow.number:
        return "shadow", 0.0
    return ("standby" if number == deployment.standby.number else "leaving"), 0.0
