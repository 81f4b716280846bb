"""What becomes of memory that a process no longer uses: one that streams gives it back, one that trains keeps it."""

import contextlib
import ctypes

import pyarrow as pa

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Larger than most of what a piece of rows takes: to ask for pages and to fill them with zeros costs time.
_LARGE_BYTES = 1 << 20
# As the platform on one machine tells all of its processes.
_KEPT_BYTES = 256 << 20


def give_back_what_is_freed() -> None:
    """Have large pieces of memory given back as soon as they are freed.

    glibc learns from the first that is freed to keep such pieces, among small ones that stay, and Arrow's own allocator
    keeps some, too: a fit that reads a table many times over would grow to several times what it holds.
    """
    _set_thresholds(_LARGE_BYTES, 4 * _LARGE_BYTES)
    pa.set_memory_pool(pa.system_memory_pool())


def keep_what_is_freed() -> None:
    """Keep the memory of a step for the next one.

    A network's step frees what it computed with; to ask for it anew takes a tenth of the time, and more where several
    processes ask at once (measured).
    """
    _set_thresholds(_KEPT_BYTES, 2 * _KEPT_BYTES)


def _set_thresholds(own_pages_bytes: int, given_back_bytes: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, own_pages_bytes)
        libc.mallopt(_TRIM_THRESHOLD, given_back_bytes)
