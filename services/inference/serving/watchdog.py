"""Looks after the runs of a process: ends those that overran or that nothing waits for any more.

ONNX Runtime looks between two nodes whether a run is to end; a single node runs to its end.
"""

import threading
import time
from collections.abc import Callable
from typing import Protocol

import structlog

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.05
# Looks without a run before the thread waits for the next one, and how long it then waits before it ends.
_IDLE_LOOKS = 20
_IDLE_SECONDS = 60.0


class Run(Protocol):
    """A run under way."""

    def is_overdue(self, now: float) -> bool:
        """Return whether it is to end; now is monotonic, seconds."""

    def end(self) -> None:
        """Have ONNX Runtime end it."""


class Watchdog:
    """Looks at the runs under way every 50 ms, by a thread that lives while there are any.

    Args:
        relieve: called at each look, for what waits too long behind long runs.
    """

    def __init__(self, relieve: Callable[[], None]) -> None:
        # Changed by the runs' own threads, without a call: it is done for each run.
        self.running: dict[Run, None] = {}
        self.is_idle = True
        self._relieve = relieve
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Look after the runs: to be called after one was added while `is_idle`."""
        with self._lock:
            self.is_idle = False
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
                self._thread.start()

    def look(self, now: float) -> None:
        """End the runs that are overdue; now is monotonic, seconds."""
        for run in list(self.running):
            if run.is_overdue(now):
                run.end()
        self._relieve()

    def _watch(self) -> None:
        idle = 0
        while True:
            time.sleep(_LOOK_SECONDS)
            if self.running:
                idle = 0
                try:
                    self.look(time.monotonic())
                except Exception as error:
                    _log.exception("runs not looked after", exc_info=error)
                continue
            idle += 1
            if idle > _IDLE_LOOKS and not self._sleep():
                return

    def _sleep(self) -> bool:
        """Wait for a run; return False where none came, and the thread is to end."""
        self._wake.clear()
        # First the mark, then the look: a run is added in the other order.
        self.is_idle = True
        if self.running:
            self.is_idle = False
            return True
        if self._wake.wait(_IDLE_SECONDS):
            return True
        with self._lock:
            if self._wake.is_set():
                return True
            self._thread = None
            return False
