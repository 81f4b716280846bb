"""Replies that their callers do not read: each client's are counted until the transport has taken them."""

import threading
from collections import Counter

from servicekit.errors import ResourceExhausted

_RETRY_SECONDS = 1.0
# Of what one client may leave unread; that much of several clients makes each of them wait.
_MOST_CLIENTS = 4


class UnreadReplies:
    """Bounds what replies that nobody reads may hold. May be used by any thread.

    Args:
        most_bytes: of one client.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes: Counter[str] = Counter()
        self._total_bytes = 0
        self._lock = threading.Lock()

    @property
    def are_many(self) -> bool:
        """Whether some client may have left too much unread: if not, there is nothing to check."""
        return self._total_bytes > self._most_bytes

    def check(self, client: str) -> None:
        """Check that a client reads what it is sent.

        Raises:
            ResourceExhausted: too much waits for it; or for it and others together.
        """
        own = self._bytes[client]
        if own > self._most_bytes or (own and self._total_bytes > _MOST_CLIENTS * self._most_bytes):
            raise ResourceExhausted(
                f"{own} bytes of replies wait for you to read them: read before you ask on",
                reason="REPLIES_UNREAD",
                retry_seconds=_RETRY_SECONDS,
            )

    def add(self, client: str, size_bytes: int) -> None:
        """Count a reply on its way to a client."""
        with self._lock:
            self._bytes[client] += size_bytes
            self._total_bytes += size_bytes

    def take(self, client: str, size_bytes: int) -> None:
        """Count it no more: the transport has taken it, or the client is gone."""
        with self._lock:
            self._total_bytes -= size_bytes
            self._bytes[client] -= size_bytes
            if not self._bytes[client]:
                del self._bytes[client]
