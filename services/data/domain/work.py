"""Heavy work off the event loop: in threads of its own, a few at a time, ended when the caller goes."""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from servicekit.errors import Cancelled

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


class Stop(threading.Event):
    """Tells a thread to end."""

    def check(self) -> None:
        """Raise where it is time to end.

        Raises:
            Cancelled: it is.
        """
        if self.is_set():
            raise Cancelled("the caller is gone")

    def watched(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Yield the items until it is time to end."""
        for item in items:
            self.check()
            yield item


class Work:
    """Runs blocking jobs.

    Threads of their own: a job waits for the event loop's own threads, of which it must not take the last.

    Args:
        parallel: jobs at a time; more wait.
    """

    def __init__(self, parallel: int) -> None:
        self._slots = asyncio.Semaphore(parallel)
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="data-work")

    async def run(self, job: Callable[[Stop], _Result]) -> _Result:
        """Return what a job returns; a cancelled call ends once its job has, which leaves nothing running behind."""
        stop = Stop()
        context = contextvars.copy_context()
        async with self._slots:
            running = asyncio.get_running_loop().run_in_executor(self._threads, context.run, job, stop)
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                stop.set()
                await settled(running)
                raise


async def settled(future: "asyncio.Future[_Result]") -> None:
    """Wait until something ends, whoever else asks to stop waiting meanwhile; what it raises is dropped."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()
