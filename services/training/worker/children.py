"""Child processes that run jobs."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncGenerator, Mapping
from typing import Self

import psutil

from servicekit.worker import own_memory_bytes
from services.training.worker.fork_server import ForkServer

_LINE_BYTES = 8 << 20
# What a child needs of its worker's environment: nothing that opens the database, NATS, objects or keys.
_KEPT = frozenset(
    ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "LEPTON_HOME")
)
# RAY_: how a Ray cluster is reached, where one trains: TLS and its token.
_KEPT_PREFIXES = ("LC_", "PYTHON", "OTEL_", "CUDA_", "NVIDIA_", "MALLOC_", "RAY_")
_SET = {
    # Read when the libraries load: how many threads a job may use is told to each library by the job.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Else torch would ask the driver whether there is a GPU, and no process forked from there could use one.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    # Ray tells nobody how it is used, starts no cluster where none is, and has Ray Tune write no logs beside ours.
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
# What there is to be told of a child whose server died: it was killed along.
_SIGKILL = -9
_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Child:
    """A process that runs one job.

    Args:
        pid: its process id.
        talk: it reads a spec there, and tells how it goes.
        end: gives its exit code, once it has ended.
    """

    def __init__(self, pid: int, talk: _Stream, end: asyncio.Task[int]) -> None:
        self.pid = pid
        self._reader, self._writer = talk
        self._end = end
        self._server_bytes = self._mapped_bytes()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return not self._end.done()

    def memory_bytes(self) -> int:
        """Return the memory that is its own, without the libraries that were loaded for it; 0 once it has ended."""
        return max(self._mapped_bytes() - self._server_bytes, 0)

    def _mapped_bytes(self) -> int:
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
        # One that is killed while it is told its job ends the talk with an error, or without one.
        with contextlib.suppress(ConnectionError):
            self._writer.write(spec + b"\n")
            await self._writer.drain()
            while line := await self._reader.readline():
                yield line

    async def wait(self) -> int:
        """Wait for its end; return its exit code, negative for a signal."""
        return await asyncio.shield(self._end)

    async def stop(self, seconds: float) -> None:
        """Ask it to stop, then kill its group; without seconds kill it at once."""
        if self.is_alive and seconds > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            await self.end_within(seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self.wait()
        self.close()

    def close(self) -> None:
        """Talk with it no more; one that has no job yet ends."""
        self._writer.close()

    async def end_within(self, seconds: float) -> None:
        """Wait for its end for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wait()


class Children:
    """Starts children; leaving waits for those that are to end.

    Args:
        server: forks them.
        environment: theirs, as `child_environment` gives it.
    """

    def __init__(self, server: ForkServer, environment: Mapping[str, str]) -> None:
        self._server = server
        self._environment = json.dumps(dict(environment)).encode() + b"\n"
        self._parting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._parting, return_exceptions=True)

    async def take(self, family: str = "") -> Child:
        """Return a child that has no job yet, with the libraries loaded that a family needs.

        Raises:
            OSError: no process can be started.
        """
        child = await self._ask(family) or await self._ask(family)
        if child is None:
            raise ChildProcessError("no process for a job: see the worker's log, it may lack memory or open files")
        return child

    def part(self, child: Child, seconds: float) -> None:
        """Let a child that is no longer needed end by itself for a while, and see that it does."""

        async def end() -> None:
            await child.end_within(seconds)
            await child.stop(0.0)

        task = asyncio.create_task(end(), name=f"end of child {child.pid}")
        self._parting.add(task)
        task.add_done_callback(self._parting.discard)

    async def _ask(self, family: str) -> Child | None:
        """Return a child; None where the server could not fork it, or died."""
        talk, states = self._server.fork(family)
        reader, writer = await asyncio.open_unix_connection(sock=talk, limit=_LINE_BYTES)
        told, telling = await asyncio.open_unix_connection(sock=states)
        pid = b""
        try:
            pid = await told.readline()
        finally:
            if not pid:
                # A child that nobody talks with ends by itself.
                writer.close()
                telling.close()
        if not pid:
            return None
        writer.write(self._environment)
        end = asyncio.create_task(_exit_code(told, telling), name=f"exit code of child {int(pid)}")
        return Child(int(pid), (reader, writer), end)


async def _exit_code(told: asyncio.StreamReader, telling: asyncio.StreamWriter) -> int:
    try:
        return int(await told.readline() or _SIGKILL)
    except ConnectionError:
        return _SIGKILL
    finally:
        telling.close()


def libraries_environment() -> dict[str, str]:
    """Return what libraries see when they load: of this process's environment, nothing that is secret."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return kept | _SET


def child_environment(settings: object) -> dict[str, str]:
    """Return what children see: the certificate, the services that they call, and what libraries need.

    Args:
        settings: the worker's.
    """
    return libraries_environment() | {f"LEPTON_{name.upper()}": str(getattr(settings, name)) for name in _KEPT_SETTINGS}
