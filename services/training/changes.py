"""Wakes whoever watches a job of this process when it changes."""

import asyncio
import contextlib
from collections.abc import Iterator

# Changes of another process's making, in a stack with several, are seen at this pace.
LOOK_SECONDS = 2.0

_Key = tuple[str, str]


class Changes:
    """Who watches which job."""

    def __init__(self) -> None:
        self._watchers: dict[_Key, set[asyncio.Event]] = {}

    def tell(self, workspace: str, job: str) -> None:
        """Say that a job changed."""
        for watcher in self._watchers.get((workspace, job), ()):
            watcher.set()

    @contextlib.contextmanager
    def watching(self, workspace: str, job: str) -> Iterator["Watcher"]:
        """Be told of a job's changes from here on."""
        key, changed = (workspace, job), asyncio.Event()
        self._watchers.setdefault(key, set()).add(changed)
        try:
            yield Watcher(changed)
        finally:
            self._watchers[key].discard(changed)
            if not self._watchers[key]:
                del self._watchers[key]


class Watcher:
    """One watch.

    Args:
        changed: set whenever the job changes.
    """

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed

    def look(self) -> None:
        """Say that the job is about to be read: only what comes after that ends a wait."""
        self._changed.clear()

    async def wait(self) -> None:
        """Wait for a change since the last look, or for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await self._changed.wait()
