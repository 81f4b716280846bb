"""How many requests may be under way at once, over all processes that share one port.

Connections are spread over the processes by the kernel, by chance: one limit for each would shed on a busy process
while the others idle. Each process keeps its own count in a slot of a shared file that it alone writes; the limit holds
for the sum. Counts are read without a lock: the sum may be off by what is just arriving, never by more.
"""

import contextlib
import fcntl
import mmap
import os
import struct
import time
from pathlib import Path

import numpy as np

from servicekit.errors import ResourceExhausted

_SLOTS = 128
_SLOT_BYTES = 8
# How long the other processes' counts are good for: reading them takes as long as a tenth of a small prediction.
_LOOK_SECONDS = 0.001
_RETRY_SECONDS = 0.1
# struct flock: type, whence, start, length, process (0 for locks of an open file).
_FLOCK = struct.Struct("hhqqi")


class Admission:
    """Counts the requests of this process and refuses what is over the shared limit.

    Args:
        limit: requests under way at once, in all processes.
        path: the shared file; None counts this process alone.
    """

    def __init__(self, limit: int, path: Path | None = None) -> None:
        self._limit = limit
        self._own = 0
        self._others = 0
        self._looked = 0.0
        self._file: int | None = None
        self._slot = 0
        self._counts: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
        if path is not None:
            self._claim(path)

    @property
    def own(self) -> int:
        """Requests under way here."""
        return self._own

    def enter(self) -> None:
        """Count one in; called under the batcher's lock.

        Raises:
            ResourceExhausted: the limit is reached.
        """
        if self._counts is not None and (now := time.monotonic()) - self._looked > _LOOK_SECONDS:
            self._looked = now
            self._others = int(self._counts.sum()) - self._own
        if self._own + self._others >= self._limit and not self._forget_dead():
            raise ResourceExhausted(
                f"{self._own + self._others} requests are under way, the limit is {self._limit}",
                reason="TOO_MANY_REQUESTS",
                retry_seconds=_RETRY_SECONDS,
            )
        self._own += 1
        if self._counts is not None:
            self._counts[self._slot] = self._own

    def leave(self) -> None:
        """Count one out; called under the batcher's lock."""
        self._own -= 1
        if self._counts is not None:
            self._counts[self._slot] = self._own

    def close(self) -> None:
        """Give the slot back."""
        if self._counts is not None:
            self._counts[self._slot] = 0
            self._counts = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _claim(self, path: Path) -> None:
        """Take the first free slot: one that nobody has locked; the kernel unlocks those of processes that died.

        Raises:
            OSError: the file cannot be made.
            ResourceExhausted: more processes than slots.
        """
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, _SLOTS * _SLOT_BYTES)
        counts = np.frombuffer(mmap.mmap(self._file, _SLOTS * _SLOT_BYTES), dtype=np.int64)
        for slot in range(_SLOTS):
            if self._lock(slot, fcntl.F_WRLCK):
                # What a killed process left.
                counts[slot] = 0
                self._slot, self._counts = slot, counts
                return
        raise ResourceExhausted(f"{_SLOTS} processes share {path} already", reason="NO_SLOT")

    def _forget_dead(self) -> bool:
        """Clear what killed processes left; return whether there is room then."""
        if self._counts is None:
            return False
        for slot in np.flatnonzero(self._counts).tolist():
            if slot != self._slot and self._lock(slot, fcntl.F_WRLCK):
                self._counts[slot] = 0
                self._lock(slot, fcntl.F_UNLCK)
        self._others = int(self._counts.sum()) - self._own
        return self._own + self._others < self._limit

    def _lock(self, slot: int, kind: int) -> bool:
        assert self._file is not None
        # Locks of the open file, not of the process: they end with it, and hold between two of one process, too.
        wanted = _FLOCK.pack(kind, os.SEEK_SET, slot * _SLOT_BYTES, _SLOT_BYTES, 0)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, wanted)
            return True
        return False
