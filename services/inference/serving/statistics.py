"""What a model did: counts, durations by stage and batch sizes, since it was loaded.

Written by whichever thread ran a batch, once a batch and under its own lock; read by ModelStatistics, by the metrics
page when it is asked for, and by reports. So a request pays for a few additions, not for a metrics library.
"""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from servicekit.errors import Cancelled, InvalidArgument, LeptonError
from services.inference.serving.release_statistics import ReleaseStatistics

# Upper bounds of latency buckets, seconds; one more bucket takes what is beyond.
LATENCY_BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
)  # fmt: skip


class Latencies:
    """A histogram over LATENCY_BOUNDS that can be added up over processes.

    Args:
        counts: (len(LATENCY_BOUNDS) + 1,), each of its bucket alone.
        seconds: their sum.
    """

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self.seconds = 0.0

    def observe(self, seconds: float, times: int = 1) -> None:
        """Count a duration, or several equal ones."""
        self.counts[bisect_left(LATENCY_BOUNDS, seconds)] += times
        self.seconds += seconds * times

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self.counts)


@dataclass
class BatchSize:
    """What batches of one size took.

    Args:
        count: batches.
        input_seconds, infer_seconds, output_seconds: assembling them, running them, giving out the answers.
    """

    count: int = 0
    input_seconds: float = 0.0
    infer_seconds: float = 0.0
    output_seconds: float = 0.0


@dataclass(frozen=True)
class BatchTimes:
    """How long one batch took, seconds, by stage."""

    input_seconds: float
    infer_seconds: float
    output_seconds: float


@dataclass
class Statistics:
    """One model's, since it was loaded.

    Args:
        requests, rows: answered.
        executions: runs of the model.
        errors, failed_seconds: requests that failed, by reason, and how long they took together.
        latency: from the request's bytes to the reply's, of answered requests.
        queue: waits before a batch was assembled.
        preprocess: assembling a batch; once a batch.
        compute: a batch in the execution provider; once a batch.
        postprocess_seconds: giving out answers.
        sizes: by rows of a batch.
        cache_hits, cache_hit_seconds, cache_misses: of the response cache.
        release: the same, as those that compare versions want it.
        last_time: when a request was answered last, seconds since the epoch; 0 for never.
    """

    requests: int = 0
    rows: int = 0
    executions: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    failed_seconds: float = 0.0
    latency: Latencies = field(default_factory=Latencies)
    queue: Latencies = field(default_factory=Latencies)
    preprocess: Latencies = field(default_factory=Latencies)
    compute: Latencies = field(default_factory=Latencies)
    postprocess_seconds: float = 0.0
    sizes: dict[int, BatchSize] = field(default_factory=dict)
    cache_hits: int = 0
    cache_hit_seconds: float = 0.0
    cache_misses: int = 0
    release: ReleaseStatistics = field(default_factory=ReleaseStatistics)
    last_time: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def batch(
        self, rows: int, waits: Sequence[float], latencies: Sequence[float], times: BatchTimes, now: float
    ) -> None:
        """Count a batch that was answered.

        Args:
            rows: its rows.
            waits: of its requests in the queue, seconds.
            latencies: of its requests as a whole, seconds.
            times: of the batch.
            now: seconds since the epoch.
        """
        with self._lock:
            self.requests += len(waits)
            self.rows += rows
            self.executions += 1
            self.last_time = now
            for wait in waits:
                self.queue.observe(wait)
            for latency in latencies:
                self.latency.observe(latency)
                self.release.observe(latency)
            self.preprocess.observe(times.input_seconds)
            self.compute.observe(times.infer_seconds)
            self.postprocess_seconds += times.output_seconds
            size = self.sizes.get(rows)
            if size is None:
                size = self.sizes[rows] = BatchSize()
            size.count += 1
            size.input_seconds += times.input_seconds
            size.infer_seconds += times.infer_seconds
            size.output_seconds += times.output_seconds

    def failed(self, error: LeptonError, seconds: float) -> None:
        """Count a request that got an error; one that the caller caused says nothing of the version."""
        with self._lock:
            self.errors[error.reason] += 1
            self.failed_seconds += seconds
            if not isinstance(error, (Cancelled, InvalidArgument)):
                self.release.observe(seconds, error.reason)

    def hit(self, seconds: float, now: float) -> None:
        """Count a request that the response cache answered."""
        with self._lock:
            self.requests += 1
            self.cache_hits += 1
            self.cache_hit_seconds += seconds
            self.latency.observe(seconds)
            self.release.observe(seconds)
            self.last_time = now

    def missed(self) -> None:
        """Count a request that the response cache could not answer."""
        with self._lock:
            self.cache_misses += 1
