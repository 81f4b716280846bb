"""The machine that plans are measured on, and the place of the one measuring on it."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import onnxruntime as ort
import psutil

from services.inference.plans.candidates import Hardware

_CPU_FACTS = Path("/proc/cpuinfo")
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108  (folders in it are made with a mode of their own)
_VNNI = frozenset(("avx512_vnni", "avx_vnni", "amx_int8"))
_PREFIX = "lepton-plans-"
_LOCK_SECONDS = 1.0


def read_hardware(provider: str, threads: int) -> Hardware:
    """Return what plans are measured on.

    Args:
        provider: that the plain plan took.
        threads: of the worker's setting.
    """
    facts = _cpu_facts()
    # Elsewhere than on x86 nothing saturates.
    has_vnni = bool(_VNNI & set(facts.get("flags", "").split())) or "flags" not in facts
    return Hardware(
        facts.get("model name", "unknown processor"), _cores(), has_vnni, ort.__version__, provider, threads
    )


def _cpu_facts() -> dict[str, str]:
    """Return what Linux says of the first processor; nothing elsewhere."""
    with contextlib.suppress(OSError):
        first = _CPU_FACTS.read_text().split("\n\n", 1)[0]
        pairs = (line.partition(":") for line in first.splitlines())
        return {name.strip(): value.strip() for name, _, value in pairs}
    return {}


def _cores() -> int:
    with contextlib.suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1


@contextlib.asynccontextmanager
async def only_one() -> AsyncIterator[None]:
    """Wait until nobody else of this user measures on this machine; whoever does and dies lets go."""
    path = _shared_folder() / f"lepton-measuring-{os.geteuid()}.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while not _locked(descriptor):  # noqa: ASYNC110  (another process lets go, and tells nobody)
            await asyncio.sleep(_LOCK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder, in memory where there is one, and remove it with what is in it."""
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_shared_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of processes that were killed."""
    for folder in _shared_folder().glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _shared_folder() -> Path:
    return _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK) else Path(tempfile.gettempdir())
