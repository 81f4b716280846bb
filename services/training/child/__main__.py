"""`python -m services.training.child [FAMILY]`: loads libraries, waits for a spec on stdin, runs it, ends."""

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any

_PR_SET_PDEATHSIG = 1
# What the libraries themselves map before a job begins.
_HEADROOM_BYTES = 2 << 30


def main() -> None:
    """Run one job."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        # A worker that is killed takes its child along.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    # stdout is for what is told to the worker; whatever libraries print goes to the log.
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _load_libraries(sys.argv[1] if len(sys.argv) > 1 else "")
    line = sys.stdin.readline()
    if not line:
        return
    spec = json.loads(line)
    _limit(spec)
    from services.training.child.run import run_job

    def tell(message: Mapping[str, Any]) -> None:
        told.write(json.dumps(message) + "\n")

    asyncio.run(run_job(spec, tell))


def _load_libraries(family: str) -> None:
    """Import what every job needs, and what a family does that the next job is likely of."""
    from services.training.domain.families.absent_libraries import absent
    from services.training.domain.families.libraries import load_libraries
    from services.training.domain.families.lightgbm_library import load_lightgbm

    # Read when the libraries load: how many threads a job may use is told to each library by the job.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import pyarrow

    with absent("pandas"):
        # pyarrow looks for it once, for conversions that no job makes: half a second and 40 MB.
        pyarrow.scalar(None)
    load_lightgbm()
    import onnxruntime  # noqa: F401

    import services.training.child.run  # noqa: F401

    load_libraries(family)


def _limit(spec: Mapping[str, Any]) -> None:
    # Not the address space, of which libraries reserve far more than they use: what is written to counts.
    memory_bytes = int(spec["memory_bytes"]) + _HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))


if __name__ == "__main__":
    main()
