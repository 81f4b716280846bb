"""A few threads for what takes long before and after a run: the event loop answers other predictions meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from servicekit.errors import ResourceExhausted

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Each may hold a decoded image of 75 MB.
_THREADS = 2
_MOST_WAITING = 64
_RETRY_SECONDS = 1.0


class Aside:
    """Runs functions in its threads; so many may wait for one."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="preprocessing")
        self._waiting = 0

    async def run(
        self, act: Callable[_Arguments, _Result], *arguments: _Arguments.args, **named: _Arguments.kwargs
    ) -> _Result:
        """Return what a function returns.

        Raises:
            ResourceExhausted: too many wait already.
        """
        if self._waiting >= _MOST_WAITING:
            raise ResourceExhausted(
                f"{self._waiting} requests wait to be read already: try again", retry_seconds=_RETRY_SECONDS
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: act(*arguments, **named))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let what runs end; what waits is not begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
