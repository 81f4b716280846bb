"""Tasks that end together."""

import asyncio
from collections.abc import Awaitable, Collection

_AGAIN_SECONDS = 0.5


async def first_to_end(*coroutines: Awaitable[None]) -> None:
    """Run coroutines until the first one ends or raises; cancel the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await cancel(tasks)


async def cancel(tasks: Collection["asyncio.Future[None]"]) -> None:
    """Cancel tasks and wait until they have ended.

    Again and again: on Python 3.11, `asyncio.wait_for` (which libraries use) swallows a cancellation that comes
    together with the result, and the task would go on for ever.
    """
    pending = [task for task in tasks if not task.done()]
    while pending:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
        pending = [task for task in pending if not task.done()]
    await asyncio.gather(*tasks, return_exceptions=True)
