"""One scheduler leads: by a row that it changes every few seconds, and that another one takes when it stands still.

Nobody compares clocks of two machines: a candidate measures by its own how long the row did not change.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from servicekit.errors import Aborted
from services.scheduler.domain.assignment import Leadership
from services.scheduler.ports import Store

_log = structlog.get_logger(__name__)

_BEATS_A_LEASE = 3
_LOOKS_A_LEASE = 6


class Candidate:
    """A process that leads or stands by.

    Args:
        store: where the leader's row is.
        holder: this process's name. One that starts again under the same name leads again at once: two processes
            cannot share it, for it is an address.
        seconds: how long the row may stand still.
        monotonic: seconds of a clock that never jumps.
    """

    def __init__(
        self, store: Store, holder: str, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._holder = holder
        self._seconds = seconds
        self._monotonic = monotonic

    async def campaign(self, least_epoch: int = 0) -> int:
        """Wait until this process leads; return the epoch of its leadership.

        Args:
            least_epoch: an epoch that workers have seen, which the new one must be above: where the database is
                younger than the bucket (it was restored, or made anew), its own count is behind.
        """
        seen: Leadership | None = None
        since = self._monotonic()
        while True:
            try:
                async with self._store.reading() as repository:
                    row = await repository.leadership()
                if row != seen:
                    seen, since = row, self._monotonic()
                stands_still = self._monotonic() - since >= self._seconds
                if row.holder in ("", self._holder) or stands_still:
                    async with self._store.writing() as writing:
                        epoch = await writing.take_leadership(self._holder, row, least_epoch)
                    if epoch is not None:
                        _log.info("leads", holder=self._holder, epoch=epoch)
                        return epoch
            except Exception as error:
                # Two candidates insert the first row at once, or the database is away: look again.
                _log.warning("leadership waits", error=str(error))
            await asyncio.sleep(self._seconds / _LOOKS_A_LEASE)

    async def keep(self, epoch: int) -> None:
        """Change the row again and again while this process leads.

        Raises:
            Aborted: another one leads, or could by now.
        """
        beaten = self._monotonic()
        while True:
            await asyncio.sleep(self._seconds / _BEATS_A_LEASE)
            try:
                async with self._store.writing() as repository:
                    await repository.beat(epoch)
                beaten = self._monotonic()
            except Aborted:
                raise
            except Exception as error:
                _log.warning("cannot show that this scheduler leads", error=str(error))
                if self._monotonic() - beaten >= self._seconds * (1 - 1 / _BEATS_A_LEASE):
                    raise Aborted("the database has been away for too long to lead", reason="NOT_LEADER") from error

    async def release(self, epoch: int) -> None:
        """Let another one lead at once."""
        async with self._store.writing() as repository:
            await repository.release_leadership(epoch)
