"""What a loaded model is measured to use: cores, and the memory that loading it took."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from servicekit.worker import own_memory_bytes

_WINDOW_SECONDS = 30.0
# Reports on changes may follow each other closely; more points than this say no more.
_APART_SECONDS = 1.0


class CoreMeter:
    """Mean cores that a model's runs take, over the last half minute.

    Args:
        clock: seconds of a clock that never jumps.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._points: list[tuple[float, float]] = []

    def update(self, core_seconds: float) -> float:
        """Take what all runs took so far, cores times seconds; return the mean cores."""
        now = self._clock()
        if self._points and core_seconds < self._points[-1][1]:
            # Loaded again: it counts from 0.
            self._points = []
        recent = [point for point in self._points if now - point[0] <= _WINDOW_SECONDS]
        self._points = recent or self._points[-1:]
        if not self._points or now - self._points[-1][0] >= _APART_SECONDS:
            self._points.append((now, core_seconds))
        began, first = self._points[0]
        return (core_seconds - first) / (now - began) if now - began >= _APART_SECONDS else 0.0


@dataclass
class Growth:
    """How much memory a load took, bytes; 0 where that is not known."""

    size_bytes: int = 0


class MemoryMeter:
    """Memory that loads take, by the growth of this process; known for a load that no other one overlaps."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._under_way = 0
        self._loads = 0

    @contextlib.contextmanager
    def measuring(self, least_bytes: int) -> Iterator[Growth]:
        """Measure a load while the block runs.

        Args:
            least_bytes: what it takes at least: memory that an earlier load gave back does not show as growth.
        """
        growth = Growth()
        self._under_way += 1
        self._loads += 1
        number, was_alone = self._loads, self._under_way == 1
        before = own_memory_bytes(self._process)
        try:
            yield growth
        finally:
            self._under_way -= 1
            if was_alone and self._loads == number:
                growth.size_bytes = max(own_memory_bytes(self._process) - before, least_bytes)
