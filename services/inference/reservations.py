"""Has undeclared reservations follow what replicas are measured to use."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import structlog

from servicekit.errors import NotFound
from servicekit.state import State
from services.inference.adapters.repository import SqlRepository
from services.inference.domain.deployments import Deployment
from services.inference.domain.reservation import Trends, follow
from services.inference.observation import Observer

_log = structlog.get_logger(__name__)


class ReservationFollower:
    """Looks at all deployments again and again while it is open.

    Args:
        state: the database.
        observer: what workers report.
        look_seconds: between looks.
        clock: seconds of a clock that never jumps.
    """

    def __init__(
        self,
        state: State[SqlRepository],
        observer: Observer,
        look_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._observer = observer
        self._look_seconds = look_seconds
        self._clock = clock
        self._trends: dict[tuple[str, str], Trends] = {}
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)

    async def look(self) -> None:
        """Compare every undeclared reservation with what is measured, once."""
        async with self._state.reading() as repository:
            present = await repository.everyone()
        names = {(item.workspace, item.name) for item in present}
        self._trends = {key: trends for key, trends in self._trends.items() if key in names}
        for item in present:
            await self._look_at(item)

    async def _look_at(self, seen: Deployment) -> None:
        used = self._observer.used(seen)
        if used is None or (seen.declared.cores and seen.declared.memory_bytes):
            return
        trends = self._trends.setdefault((seen.workspace, seen.name), Trends())
        resources = follow(seen, used, trends, self._clock())
        if resources == seen.resources:
            return
        async with self._state.writing() as repository:
            try:
                fresh = await repository.find(seen.workspace, seen.name)
            except NotFound:
                return
            if (fresh.resources, fresh.declared) != (seen.resources, seen.declared):
                return
            await repository.save_reserved(replace(fresh, resources=resources))
        _log.info(
            "reservation changed", deployment=seen.name, cores=resources.cores, memory_bytes=resources.memory_bytes
        )

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                await self.look()
            except Exception as error:
                _log.warning("reservations not looked at", exc_info=error)
