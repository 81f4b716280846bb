"""What a loaded version did on this worker since a window began: counted here, summed elsewhere."""

import threading
import time
from collections.abc import Callable

from services.inference.domain.measurements import BUCKETS, Measured, bucket_of


class ReleaseStatistics:
    """Counts of one version. Its methods may be called by any thread.

    Args:
        clock: seconds of a clock that never jumps.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._reset(0)

    def begin(self, window: int) -> None:
        """Count anew if this is another window."""
        with self._lock:
            if window != self._window:
                self._reset(window)

    def observe(self, seconds: float, error_reason: str | None = None) -> None:
        """Count a request: how long it took, and why it failed; None where it did not."""
        with self._lock:
            self._requests += 1
            self._latency_seconds += seconds
            self._buckets[bucket_of(seconds)] += 1
            if error_reason is not None:
                self._errors[error_reason] = self._errors.get(error_reason, 0) + 1

    def compare(self, rows: int, agreed: int) -> None:
        """Count answers that were compared."""
        with self._lock:
            self._compared += rows
            self._agreed += agreed

    def fail_comparison(self) -> None:
        """Count a request that was to be compared and failed."""
        with self._lock:
            self._compare_failed += 1

    def drop_comparison(self) -> None:
        """Count a request that was to be compared and was left out."""
        with self._lock:
            self._compare_dropped += 1

    def measured(self) -> Measured:
        """Return the counts so far."""
        with self._lock:
            last = max((bucket for bucket, count in enumerate(self._buckets) if count), default=-1)
            return Measured(
                self._window,
                self._clock() - self._began,
                self._requests,
                dict(self._errors),
                self._latency_seconds,
                tuple(self._buckets[: last + 1]),
                self._compared,
                self._agreed,
                self._compare_failed,
                self._compare_dropped,
            )

    def _reset(self, window: int) -> None:
        self._window = window
        self._began = self._clock()
        self._requests = 0
        self._errors: dict[str, int] = {}
        self._latency_seconds = 0.0
        self._buckets = [0] * BUCKETS
        self._compared = 0
        self._agreed = 0
        self._compare_failed = 0
        self._compare_dropped = 0
