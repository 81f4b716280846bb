"""A worker's metrics for Prometheus, read from its models' statistics when the page is asked for."""

import contextlib
from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.inference.serving.forwarding import Forwarder
from services.inference.serving.model import LoadedModel
from services.inference.serving.statistics import LATENCY_BOUNDS, Latencies
from services.inference.serving.table import ServingTable

_WHO = ["workspace", "deployment", "version"]
_BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServingMetrics(Collector):
    """Collects what the models of a table did.

    Args:
        table: who is served.
        forwarder: passes on what is not.
    """

    def __init__(self, table: ServingTable, forwarder: Forwarder) -> None:
        self._table = table
        self._forwarder = forwarder

    def describe(self) -> list[Metric]:
        """Name none beforehand: a process may hold the tables of several workers."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of each deployment and version."""
        requests = CounterMetricFamily("lepton_inference_requests", "Predictions answered.", labels=_WHO)
        rows = CounterMetricFamily("lepton_inference_rows", "Rows predicted.", labels=_WHO)
        errors = CounterMetricFamily(
            "lepton_inference_errors", "Predictions that failed, by reason.", labels=[*_WHO, "reason"]
        )
        stages = HistogramMetricFamily(
            "lepton_inference_seconds",
            "Time of a prediction by stage: queue, forward and total by request, "
            "preprocess and compute by batch; seconds.",
            labels=[*_WHO, "stage"],
        )
        batches = HistogramMetricFamily("lepton_inference_batch_rows", "Rows of a batch.", labels=_WHO)
        cached = CounterMetricFamily(
            "lepton_inference_cache", "Predictions that the response cache was asked for.", labels=[*_WHO, "result"]
        )
        unknown = CounterMetricFamily(
            "lepton_inference_unknown_categories",
            "Values that were none of the categories of their column.",
            labels=[*_WHO, "column"],
        )
        waiting = GaugeMetricFamily("lepton_inference_waiting", "Predictions that wait for their run.", labels=_WHO)
        under_way = GaugeMetricFamily("lepton_inference_in_flight", "Predictions under way.", labels=_WHO)
        for workspace, deployment in self._table.deployments():
            for model in self._table.get(workspace, deployment).models.values():
                who = [workspace, deployment, model.version]
                seen = model.statistics
                requests.add_metric(who, seen.requests)
                rows.add_metric(who, seen.rows)
                waiting.add_metric(who, model.waiting)
                under_way.add_metric(who, model.in_flight)
                for reason, count in tuple(seen.errors.items()):
                    errors.add_metric([*who, reason], count)
                cached.add_metric([*who, "hit"], seen.cache_hits)
                cached.add_metric([*who, "miss"], seen.cache_misses)
                for name, count in _unknown_categories(model):
                    unknown.add_metric([*who, name], count)
                for stage, latencies in (
                    ("total", seen.latency),
                    ("queue", seen.queue),
                    ("preprocess", seen.preprocess),
                    ("compute", seen.compute),
                ):
                    stages.add_metric([*who, stage], _buckets(latencies), latencies.seconds)
                batches.add_metric(who, *_batch_buckets(model))
        for model_of, latencies in tuple(self._forwarder.latencies.items()):
            # Which version answers is the other worker's business.
            stages.add_metric([*model_of, "", "forward"], _buckets(latencies), latencies.seconds)
        yield from (requests, rows, errors, stages, batches, cached, unknown, waiting, under_way)


def _unknown_categories(model: LoadedModel) -> list[tuple[str, int]]:
    return [(spec.name, spec.unknown.unknown) for spec in model.inputs.values() if spec.categories is not None]


@contextlib.contextmanager
def collecting(table: ServingTable, forwarder: Forwarder) -> Iterator[None]:
    """Show a worker's metrics on the process's page while the block runs."""
    metrics = ServingMetrics(table, forwarder)
    REGISTRY.register(metrics)
    try:
        yield
    finally:
        REGISTRY.unregister(metrics)


def _buckets(latencies: Latencies) -> list[tuple[str, float]]:
    return _cumulated(list(map(str, LATENCY_BOUNDS)), latencies.counts)


def _batch_buckets(model: LoadedModel) -> tuple[list[tuple[str, float]], float]:
    counts = [0] * (len(_BATCH_BOUNDS) + 1)
    total = 0
    for rows, size in tuple(model.statistics.sizes.items()):
        counts[sum(rows > bound for bound in _BATCH_BOUNDS)] += size.count
        total += rows * size.count
    return _cumulated(list(map(str, _BATCH_BOUNDS)), counts), float(total)


def _cumulated(bounds: list[str], counts: list[int]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip([*bounds, "+Inf"], counts, strict=True):
        total += count
        found.append((bound, float(total)))
    return found
