"""Child processes that run jobs, one of them waiting with its libraries loaded."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, Self

import psutil
import structlog

from servicekit.worker import own_memory_bytes

_log = structlog.get_logger(__name__)

_LINE_BYTES = 8 << 20
# What a child needs of its worker's environment: nothing that opens the database, NATS, objects or keys.
_KEPT = frozenset(
    ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "LEPTON_HOME")
)
# RAY_: how a Ray cluster is reached, where one trains: TLS and its token.
_KEPT_PREFIXES = ("LC_", "PYTHON", "OTEL_", "CUDA_", "NVIDIA_", "MALLOC_", "RAY_")
# Ray tells nobody how it is used, starts no cluster where none is, and has Ray Tune write no logs beside ours.
_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
_KEPT_SETTINGS = (
    "tls_ca",
    "tls_certificate",
    "tls_key",
    "token_public_keys",
    "data_address",
    "registry_address",
    "training_address",
    "checkpoint_seconds",
    "engine",
    "ray_address",
    "max_message_bytes",
    "log_level",
)
# A standby child that dies again and again must not keep the machine busy.
_LONGEST_WAIT_SECONDS = 60.0


class Child:
    """A process that runs one job.

    Args:
        process: the operating system's; it reads a spec on stdin and tells how it goes on stdout.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.returncode is None

    def memory_bytes(self) -> int:
        """Return the memory that is its own, without the files of libraries that it maps; 0 once it has ended."""
        try:
            return own_memory_bytes(psutil.Process(self.pid))
        except psutil.NoSuchProcess:
            return 0

    def core_seconds(self) -> float:
        """Return how long it computed, cores times seconds, its own ended children included; 0 once it has ended."""
        try:
            return float(sum(psutil.Process(self.pid).cpu_times()[:4]))
        except psutil.Error:
            return 0.0

    async def run(self, spec: bytes) -> AsyncGenerator[bytes, None]:
        """Give it its job, one line; yield what it tells, line by line, until it ends."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(spec + b"\n")
        with contextlib.suppress(ConnectionError):
            await self._process.stdin.drain()
        while line := await self._process.stdout.readline():
            yield line

    async def wait(self) -> int:
        """Wait for its end; return its exit code, negative for a signal."""
        return await self._process.wait()

    async def stop(self, seconds: float) -> None:
        """Ask it to stop, then kill its group; without seconds kill it at once."""
        if self.is_alive and seconds > 0:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self.end_within(seconds)
        self._kill()
        await self._process.wait()

    async def end_within(self, seconds: float) -> None:
        """Wait for its end for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


class Children:
    """Starts children, keeping one on standby while it is open; leaving ends them all.

    The one on standby has the libraries loaded that the job before needed: the next is likely of the same family, and
    those of networks take seconds to load and 300 MB.

    Args:
        environment: theirs, as `child_environment` gives it.
        keep_standby: whether one waits with its libraries loaded: a job then begins at once, for some 150 MB.
    """

    def __init__(self, environment: Mapping[str, str], *, keep_standby: bool) -> None:
        self._environment = dict(environment)
        self._keep_standby = keep_standby
        self._family = ""
        self._standby: Child | None = None
        self._starting = asyncio.Lock()
        self._is_taken = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._parting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        if self._keep_standby:
            self._keeping = asyncio.create_task(self._keep(), name="standby child")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._standby is not None:
            await self._standby.stop(0.0)
        await asyncio.gather(*self._parting, return_exceptions=True)

    async def take(self, family: str = "") -> Child:
        """Return a child that has no job yet, for a job of a family; the next one is made meanwhile."""
        self._family = family
        async with self._starting:
            ready, self._standby = self._standby, None
        self._is_taken.set()
        return ready if ready is not None and ready.is_alive else await self._start()

    def part(self, child: Child, seconds: float) -> None:
        """Let a child that is no longer needed end by itself for a while, and see that it does."""

        async def end() -> None:
            await child.end_within(seconds)
            await child.stop(0.0)

        task = asyncio.create_task(end(), name=f"end of child {child.pid}")
        self._parting.add(task)
        task.add_done_callback(self._parting.discard)

    async def _keep(self) -> None:
        """Keep one child on standby: another one when it is taken, or when it dies."""
        wait = 0.0
        while True:
            try:
                async with self._starting:
                    child = self._standby = await self._start()
                    self._is_taken.clear()
                await first_of(child.wait(), self._is_taken.wait())
            except OSError as error:
                _log.warning("no standby child", error=str(error))
            wait = 0.0 if self._is_taken.is_set() else min(_LONGEST_WAIT_SECONDS, 2 * wait or 1.0)
            await asyncio.sleep(wait)

    async def _start(self) -> Child:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.training.child", self._family),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
            limit=_LINE_BYTES,
        )
        return Child(process)


async def first_of(*awaited: Coroutine[Any, Any, object]) -> None:
    """Wait for the first of several to end, and cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in awaited]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def child_environment(settings: object) -> dict[str, str]:
    """Return what children see: the certificate, the services that they call, and what libraries need.

    Args:
        settings: the worker's.
    """
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return kept | _RAY | {f"LEPTON_{name.upper()}": str(getattr(settings, name)) for name in _KEPT_SETTINGS}
