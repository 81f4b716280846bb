"""The process's Prometheus metrics, sent by OTLP as well: measured once, told in both languages.

Where the standard OTEL_* variables name an endpoint, what the metrics page would show is sent there every
OTEL_METRIC_EXPORT_INTERVAL milliseconds (60,000), and once more at the end.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import structlog
from prometheus_client import REGISTRY
from prometheus_client.core import Metric as Family

_log = structlog.get_logger(__name__)
_INTERVAL_MILLISECONDS = "60000"
_STOP_SECONDS = 5.0


@contextlib.contextmanager
def exporting_metrics(service_name: str) -> Iterator[None]:
    """Send this process's metrics while the block runs, if the environment says where to."""
    if not (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")):
        yield
        return
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    exporter = OTLPMetricExporter()
    interval_seconds = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL", _INTERVAL_MILLISECONDS)) / 1000
    started = time.time_ns()
    stopping = threading.Event()

    def send() -> None:
        while True:
            is_last = stopping.wait(interval_seconds)
            try:
                exporter.export(metrics_data(service_name, REGISTRY.collect(), started, time.time_ns()))
            except Exception as error:
                # A collector that is away, or a metric that cannot be told, stops nothing.
                _log.warning("metrics not sent", exc_info=error)
            if is_last:
                return

    thread = threading.Thread(target=send, name="otlp metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(_STOP_SECONDS)
        exporter.shutdown()


def metrics_data(service_name: str, families: Iterable[Family], started: int, now: int) -> Any:
    """Return Prometheus's families as OpenTelemetry has them.

    Args:
        service_name: of the process, such as inference-worker.
        families: what the registry collected.
        started: when counting began, nanoseconds since the epoch.
        now: the present, nanoseconds since the epoch.
    """
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [metric for family in families if (metric := _metric(family, started, now)) is not None]
    scope = export.ScopeMetrics(InstrumentationScope("lepton"), metrics, "")
    resource = Resource.create({"service.name": f"lepton-{service_name}"})
    return export.MetricsData([export.ResourceMetrics(resource, [scope], "")])


def _metric(family: Family, started: int, now: int) -> Any:
    from opentelemetry.sdk.metrics import export

    cumulative = export.AggregationTemporality.CUMULATIVE
    data: Any
    if family.type == "histogram":
        data = export.Histogram(_histogram_points(family, started, now), cumulative)
    elif family.type == "counter":
        data = export.Sum(_number_points(family, f"{family.name}_total", started, now), cumulative, True)
    elif family.type == "gauge":
        data = export.Gauge(_number_points(family, family.name, started, now))
    else:
        # Python's own summaries and infos are for the page alone.
        return None
    return export.Metric(family.name, family.documentation, family.unit, data) if data.data_points else None


def _number_points(family: Family, name: str, started: int, now: int) -> list[Any]:
    from opentelemetry.sdk.metrics import export

    return [
        export.NumberDataPoint(dict(sample.labels), started, now, sample.value)
        for sample in family.samples
        if sample.name == name
    ]


def _histogram_points(family: Family, started: int, now: int) -> list[Any]:
    from opentelemetry.sdk.metrics import export

    found: dict[tuple[tuple[str, str], ...], tuple[dict[float, float], list[float]]] = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        buckets, total = found.setdefault(tuple(sorted(labels.items())), ({}, []))
        if sample.name.endswith("_bucket"):
            buckets[float(sample.labels["le"])] = sample.value
        elif sample.name.endswith("_sum"):
            total.append(sample.value)
    points = []
    for key, (buckets, total) in found.items():
        bounds, counts = _own_counts(buckets)
        points.append(
            export.HistogramDataPoint(
                dict(key), started, now, sum(counts), sum(total), counts, bounds, min=float("inf"), max=float("-inf")
            )
        )
    return points


def _own_counts(buckets: Mapping[float, float]) -> tuple[list[float], list[int]]:
    """Return bounds, and what each bucket counts alone: Prometheus's include those before."""
    ordered = sorted(buckets)
    cumulated = [round(buckets[bound]) for bound in ordered]
    counts = [after - before for before, after in zip([0, *cumulated], cumulated, strict=False)]
    return [bound for bound in ordered if bound != float("inf")], counts
