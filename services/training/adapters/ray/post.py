"""Between a job and its workers on Ray: an actor beside the job, which outlives the workers."""

import asyncio
from typing import Any

STOP, CHECKPOINT = "stop", "checkpoint"
# What workers tell: the kind, then what it takes.
News = tuple[str, Any]


class Post:
    """Keeps what workers tell until the job asks, and what the job wishes until workers see it.

    Args:
        key: of the run's seal.
        snapshot: to go on from, sealed; empty to begin.
    """

    def __init__(self, key: bytes, snapshot: bytes) -> None:
        self._key = key
        self._snapshot = snapshot
        self._news: list[News] = []
        self._wish = ""
        self._is_wished = asyncio.Event()

    async def begin(self) -> tuple[bytes, bytes]:
        """Return the key, and the snapshot to go on from: the latest one, for workers that come after others."""
        return self._key, self._snapshot

    async def tell(self, kind: str, what: Any) -> None:
        """Take news of the workers."""
        self._news.append((kind, what))

    async def keep(self, snapshot: bytes) -> None:
        """Take a snapshot in place of those before."""
        self._snapshot = snapshot
        self._news.append((CHECKPOINT, snapshot))
        if self._wish == CHECKPOINT:
            self._wish = ""
            self._is_wished.clear()

    async def news(self) -> list[News]:
        """Return what was told since."""
        news, self._news = self._news, []
        return news

    async def ask(self, wish: str) -> None:
        """Let the workers know what the job wishes; that it is to stop is not taken back."""
        if self._wish != STOP:
            self._wish = wish
            self._is_wished.set()

    async def wish(self) -> str:
        """Wait until the job wishes something; return that."""
        await self._is_wished.wait()
        return self._wish
