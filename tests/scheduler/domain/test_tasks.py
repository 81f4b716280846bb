import asyncio
import contextlib

import pytest

from services.scheduler.domain.tasks import cancel, first_to_end


async def test_the_first_to_fail_ends_the_others() -> None:
    ended = asyncio.Event()

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("over")

    with pytest.raises(ValueError, match="over"):
        await first_to_end(waits(), fails())
    assert ended.is_set()


async def test_a_task_that_swallows_a_cancellation_ends_nevertheless() -> None:
    async def stubborn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(120):
        await cancel([task])
    assert task.cancelled()
