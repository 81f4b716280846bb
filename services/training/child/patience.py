"""Calls to neighbours that may be away for a while: a job that took an hour must not fail for a restart."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from servicekit.errors import Unavailable

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 5.0


class Patience:
    """Tries again what is harmless to repeat, while a neighbour is away.

    Args:
        seconds: for how long.
        check: raises where the job is to stop.
    """

    def __init__(self, seconds: float, check: Callable[[], None]) -> None:
        self.seconds = seconds
        self._check = check

    async def __call__(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Return what a call gives, in the end.

        Raises:
            Unavailable: it was away all the time.
        """
        ends, wait = time.monotonic() + self.seconds, _FIRST_WAIT_SECONDS
        while True:
            self._check()
            try:
                return await call()
            except Unavailable as error:
                if time.monotonic() + wait > ends:
                    raise
                _log.info("neighbour away", reason=error.reason, error=error.message)
            await asyncio.sleep(wait)
            wait = min(_LONGEST_WAIT_SECONDS, 2 * wait)
