"""How long the call under way may still take, so that the calls it makes take no longer."""

import asyncio
from contextvars import ContextVar
from typing import Any

# The task that serves the call, and when it must have ended (the event loop's clock). Tasks that outlive the call
# inherit this, too: it binds the serving task alone.
_deadline: ContextVar[tuple[asyncio.Task[Any] | None, float] | None] = ContextVar("lepton_deadline", default=None)


def set_deadline(remaining_seconds: float) -> None:
    """Set how long the call that this task serves may take from now."""
    _deadline.set((asyncio.current_task(), asyncio.get_running_loop().time() + remaining_seconds))


def bounded_timeout(seconds: float | None) -> float | None:
    """Return a timeout, no longer than what remains of the call under way; None where nothing bounds it."""
    deadline = _deadline.get()
    if deadline is None or deadline[0] is not asyncio.current_task():
        return seconds
    remaining = max(deadline[1] - asyncio.get_running_loop().time(), 0.0)
    return remaining if seconds is None else min(seconds, remaining)
