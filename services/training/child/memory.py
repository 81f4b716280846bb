"""What a process that streams must do so that memory it no longer uses is the machine's again."""

import contextlib
import ctypes

import pyarrow as pa

# Of malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# Larger than most of what a piece of rows takes: to ask for pages and to fill them with zeros costs time.
_LARGE_BYTES = 1 << 20


def give_back_what_is_freed() -> None:
    """Have large pieces of memory given back as soon as they are freed.

    glibc learns from the first that is freed to keep such pieces, among small ones that stay, and Arrow's own allocator
    keeps some, too: a fit that reads a table many times over would grow to several times what it holds.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 4 * _LARGE_BYTES)
    pa.set_memory_pool(pa.system_memory_pool())
