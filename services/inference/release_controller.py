"""Moves canaries on, and lets standbys go: level-triggered, so that any process may stop at any moment.

What is wanted stands in SQL, what was measured comes with every report; a step is one transaction that finds the
deployment as it was judged, so that of several processes one steps and the others see that it was done.
"""

import asyncio
from datetime import UTC, datetime
from typing import Self

import structlog

from servicekit.state import State
from services.inference.adapters.repository import SqlRepository
from services.inference.domain.canary import Decision, Verdict, decide
from services.inference.domain.deployments import Deployment
from services.inference.domain.releasing import advance, without_expired
from services.inference.observation import Changes, Observer

_log = structlog.get_logger(__name__)


class ReleaseController:
    """Looks at all releases again and again while it is open.

    Args:
        state: the database.
        observer: what workers report.
        changes: tells watchers.
        look_seconds: between looks.
        standby_seconds: how long a former version stays loaded once a canary was promoted.
    """

    def __init__(
        self,
        state: State[SqlRepository],
        observer: Observer,
        changes: Changes,
        look_seconds: float,
        standby_seconds: float,
    ) -> None:
        self._state = state
        self._observer = observer
        self._changes = changes
        self._look_seconds = look_seconds
        self._standby_seconds = standby_seconds
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._looking is not None
        self._looking.cancel()
        await asyncio.gather(self._looking, return_exceptions=True)

    async def look(self) -> None:
        """Judge every release once."""
        async with self._state.reading() as repository:
            present = await repository.everyone()
        for deployment in present:
            try:
                await self._look_at(deployment)
            except Exception as error:
                _log.warning("release not judged", deployment=deployment.name, exc_info=error)

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(self._look_seconds)
            try:
                await self.look()
            except Exception as error:
                _log.warning("releases not judged", exc_info=error)

    async def _look_at(self, seen: Deployment) -> None:
        decision = judge(self._observer, seen)
        now = datetime.now(UTC)
        if self._moved(seen, decision, now) == seen:
            return
        async with self._state.writing() as repository:
            fresh = await repository.find(seen.workspace, seen.name)
            if fresh.etag != seen.etag:
                # Somebody was faster: the next look judges what is so then.
                return
            await repository.save(self._moved(fresh, decision, now))
        if decision is not None and decision.verdict is not Verdict.WAIT:
            _log.info("canary judged", deployment=seen.name, verdict=decision.verdict.value, why=decision.message)
        await self._changes.tell()

    def _moved(self, deployment: Deployment, decision: Decision | None, now: datetime) -> Deployment:
        if decision is not None:
            deployment = advance(deployment, decision, now, self._standby_seconds)
        return without_expired(deployment, now)


def judge(observer: Observer, deployment: Deployment) -> Decision | None:
    """Return what is to be done with a deployment's canary by what workers report now; None where none runs."""
    canary = deployment.release.running_canary
    if canary is None:
        return None
    own = observer.measured(deployment, deployment.number, deployment.digest, canary.window)
    its = observer.measured(deployment, canary.number, canary.digest, canary.window)
    return decide(canary, own, its, observer.trouble(deployment, canary.number, canary.digest))
