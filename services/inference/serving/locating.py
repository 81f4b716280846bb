"""Where a deployment is served, asked of the inference service by a worker that does not serve it."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

# Lookups under way at once: names that do not exist must not keep the inference service busy.
_MOST_LOOKUPS = 16
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Holder:
    """A worker that serves a model.

    Args:
        address: its private host:port.
        in_flight: requests under way there, as last reported.
    """

    address: str
    in_flight: int


@dataclass(frozen=True)
class Location:
    """Where a deployment is served.

    Args:
        holders: the workers that serve it.
        reason: why none does, stable; empty where one does.
        message: the same, for people.
    """

    holders: tuple[Holder, ...] = ()
    reason: str = ""
    message: str = ""


# By workspace, deployment and version, as a caller named them.
Ask = Callable[[str, str, str], Awaitable[Location]]


class Locator:
    """Asks where deployments are served, once for requests that ask the same at the same time.

    Args:
        ask: asks the inference service.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._slots = asyncio.Semaphore(_MOST_LOOKUPS)
        self._waiting: dict[tuple[str, str, str], asyncio.Task[Location]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in list(self._waiting.values()):
            task.cancel()

    async def locate(self, workspace: str, deployment: str, version: str) -> Location:
        """Return where a deployment is served.

        Raises:
            NotFound: the deployment, or the version, does not exist.
            LeptonError: the inference service does not answer.
        """
        key = (workspace, deployment, version)
        # Nothing is cached, and a lookup under way is not joined: a deployment created since would not be found.
        waiting = self._waiting.get(key)
        if waiting is None:
            # In a context of its own: neither the caller's deadline nor its identity holds for others.
            waiting = asyncio.create_task(self._run(key), context=contextvars.Context())
            self._waiting[key] = waiting
        return await asyncio.shield(waiting)

    async def _run(self, key: tuple[str, str, str]) -> Location:
        try:
            async with self._slots:
                self._waiting.pop(key, None)
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    return await self._ask(*key)
        finally:
            self._waiting.pop(key, None)
