"""Who may stand for leadership, and under which name."""

import asyncio
import contextlib
import fcntl
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy.engine import make_url

_LOOK_SECONDS = 0.5
# Where a lock decides, the row need not prove every few seconds that its holder lives: each beat is a write.
_LOCKED_SECONDS = 60.0


@dataclass(frozen=True)
class Candidacy:
    """How a process stands for leadership.

    Args:
        holder: its name in the leader's row.
        seconds: how long the row may stand still before another one takes it.
    """

    holder: str
    seconds: float


@contextlib.asynccontextmanager
async def candidacy(database_url: str, port: int, seconds: float) -> AsyncIterator[Candidacy]:
    """Wait until this process may stand for leadership; yield how.

    On SQLite all schedulers share a machine, so a locked file tells for certain whether another one lives: the kernel
    lets go of it when its holder dies, and the next one leads at once. They share one name, for the lock tells
    them apart. Elsewhere the name is where this process listens, and the leader's row alone decides.

    Args:
        database_url: SQLAlchemy URL of the scheduler's database.
        port: the port that this process listens on.
        seconds: how long the leader's row may stand still where it alone decides.
    """
    url = make_url(database_url)
    if url.get_backend_name() != "sqlite":
        yield Candidacy(f"{socket.gethostname()}:{port}", seconds)
        return
    with open(f"{url.database}.leader", "w") as file:  # noqa: ASYNC230 - an empty local file, once
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(_LOOK_SECONDS)
        yield Candidacy("holder of the lock file", max(seconds, _LOCKED_SECONDS))
