"""What came of the requests that a version took: counts that can be summed over workers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

# Four buckets an octave: a quantile is exact to a fifth. From 10 us to 70 s, and one for all beyond.
_LEAST_SECONDS = 1e-5
_BUCKETS_PER_OCTAVE = 4
BUCKETS = 93


def bucket_of(seconds: float) -> int:
    """Return the bucket of a latency: bucket i ends at 10 us * 2^(i/4), and the last one nowhere."""
    if seconds <= _LEAST_SECONDS:
        return 0
    return min(math.ceil(_BUCKETS_PER_OCTAVE * math.log2(seconds / _LEAST_SECONDS)), BUCKETS - 1)


def edge_of(bucket: int) -> float:
    """Return where a bucket ends, seconds."""
    return float(_LEAST_SECONDS * 2 ** (bucket / _BUCKETS_PER_OCTAVE))


@dataclass(frozen=True)
class Measured:
    """Counts of a version, on one worker or on several; fields and units as in lepton.v1.ReplicaStatistics."""

    window: int = 0
    seconds: float = 0.0
    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    latency_seconds: float = 0.0
    buckets: tuple[int, ...] = ()
    compared: int = 0
    agreed: int = 0
    compare_failed: int = 0
    compare_dropped: int = 0
    batching: str = ""

    @property
    def failed(self) -> int:
        """Requests that failed, for whatever reason."""
        return sum(self.errors.values())

    @property
    def error_rate(self) -> float:
        """Share of requests that failed, 0 to 1; 0 where there was none."""
        return self.failed / self.requests if self.requests else 0.0

    @property
    def mean_seconds(self) -> float:
        """Mean time that a request took; 0 where there was none."""
        return self.latency_seconds / self.requests if self.requests else 0.0

    @property
    def agreement(self) -> float:
        """Share of compared answers that agreed, 0 to 1; a failed comparison agrees with nothing. 1 where none was."""
        whole = self.compared + self.compare_failed
        return self.agreed / whole if whole else 1.0

    def quantile_seconds(self, quantile: float) -> float:
        """Return a quantile of the time that requests took, at most a fifth above the true one; 0 where none was."""
        rank, passed = quantile * sum(self.buckets), 0
        for bucket, count in enumerate(self.buckets):
            passed += count
            if count and passed >= rank:
                return edge_of(bucket)
        return 0.0

    def slower_than(self, seconds: float) -> int:
        """Return how many requests certainly took longer."""
        return sum(self.buckets[bucket_of(seconds) + 1 :])


def total(parts: Iterable[Measured]) -> Measured:
    """Return the sum of counts of one window; its time is the longest of the parts'."""
    found = list(parts)
    errors: dict[str, int] = {}
    for part in found:
        for reason, count in part.errors.items():
            errors[reason] = errors.get(reason, 0) + count
    length = max((len(part.buckets) for part in found), default=0)
    buckets = [sum(part.buckets[index] for part in found if index < len(part.buckets)) for index in range(length)]
    return Measured(
        found[0].window if found else 0,
        max((part.seconds for part in found), default=0.0),
        sum(part.requests for part in found),
        errors,
        sum(part.latency_seconds for part in found),
        tuple(buckets),
        sum(part.compared for part in found),
        sum(part.agreed for part in found),
        sum(part.compare_failed for part in found),
        sum(part.compare_dropped for part in found),
        # Workers of other processors may differ: a plan of theirs may mix rows.
        "; ".join(sorted({part.batching for part in found} - {""})),
    )
