"""Child processes that run jobs, one of them waiting with its libraries loaded."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Self

_LINE_BYTES = 8 << 20


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

    async def run(self, spec: bytes) -> AsyncIterator[bytes]:
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
        """Ask it to stop, then kill its group."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()


class Children:
    """Starts children, keeping one on standby.

    Args:
        keep_standby: whether one waits with its libraries loaded: a job then starts at once, for some 150 MB.
    """

    def __init__(self, *, keep_standby: bool) -> None:
        self._keep_standby = keep_standby
        self._standby: Child | None = None
        self._starting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._prepare()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._standby is not None:
            await self._standby.stop(0.0)

    async def take(self) -> Child:
        """Return a child that has no job yet; the next one is made meanwhile."""
        if self._starting is not None:
            await asyncio.gather(self._starting, return_exceptions=True)
        ready, self._standby = self._standby, None
        child = ready if ready is not None and ready.is_alive else await _start()
        self._prepare()
        return child

    def _prepare(self) -> None:
        if self._keep_standby:
            self._starting = asyncio.create_task(self._start_standby(), name="standby child")

    async def _start_standby(self) -> None:
        self._standby = await _start()


async def _start() -> Child:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.training.child"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=_LINE_BYTES,
    )
    return Child(process)
