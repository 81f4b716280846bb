"""What dashboards see of the scheduler."""

from collections import Counter as Tally

from prometheus_client import Counter, Gauge, Histogram

from services.scheduler.domain.cluster import JobKey, Plan

_MOVES = Counter("lepton_scheduler_moves_total", "Moves written down.", ["kind", "cause"])
_UNPLACED = Gauge("lepton_scheduler_unplaced", "Replicas and jobs that have no place now.", ["kind", "reason"])
_SECONDS = Histogram(
    "lepton_scheduler_plan_seconds",
    "Time to plan and write the moves down, seconds.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
)


def count_plan(plan: Plan, seconds: float) -> None:
    """Count one plan."""
    _SECONDS.observe(seconds)
    for move in plan.moves:
        _MOVES.labels(type(move).__name__, move.cause.value).inc()
    _UNPLACED.clear()
    tally: Tally[tuple[str, str]] = Tally()
    for item in plan.unplaced:
        tally["job" if isinstance(item.key, JobKey) else "replica", item.reason.value] += item.missing
    for (kind, reason), count in tally.items():
        _UNPLACED.labels(kind, reason).set(count)
