"""Watching desired state in a real nats-server's KV, over its death."""

import asyncio
from pathlib import Path

import pytest
from nats.js.errors import KeyNotFoundError

from servicekit.events import connect
from servicekit.key_value import watch
from tests.support.example_service import nats_settings
from tests.support.nats import NatsServer


async def test_a_watch_gives_what_is_there_then_every_change(platform_files: Path, nats_server: NatsServer) -> None:
    async with connect(nats_settings(platform_files, nats_server), "test") as nats, asyncio.timeout(120):
        bucket = await nats.key_value("watch-test")
        await bucket.put("worker.one", b"1")
        entries = watch(nats, "watch-test", "worker.one")
        first = await anext(entries)
        assert first is not None and first.value == b"1"
        assert await anext(entries) is None
        await bucket.put("worker.two", b"of another")
        await bucket.put("worker.one", b"2")
        second = await anext(entries)
        assert second is not None and second.value == b"2"
        await entries.aclose()


async def test_a_watch_of_nothing_tells_that_there_is_nothing(platform_files: Path, nats_server: NatsServer) -> None:
    async with connect(nats_settings(platform_files, nats_server), "test") as nats, asyncio.timeout(120):
        entries = watch(nats, "watch-empty", "worker.one")
        assert await anext(entries) is None
        await entries.aclose()


async def test_a_watch_goes_on_after_nats_was_killed(platform_files: Path, own_nats_server: NatsServer) -> None:
    seen: list[bytes] = []

    async def follow() -> None:
        async for entry in watch(nats, "placements", "worker.*"):
            if entry is not None:
                seen.append(entry.value)

    async def until(value: bytes) -> None:
        while value not in seen:
            await asyncio.sleep(0.02)

    async with connect(nats_settings(platform_files, own_nats_server), "test") as nats, asyncio.timeout(120):
        following = asyncio.create_task(follow())
        await (await nats.key_value("placements")).put("worker.one", b"1")
        await until(b"1")
        own_nats_server.kill()
        await nats.wait_dropped()
        own_nats_server.start()
        await nats.wait_connected()
        await (await nats.key_value("placements")).put("worker.one", b"2")
        await until(b"2")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_a_value_that_is_not_written_again_lapses(platform_files: Path, nats_server: NatsServer) -> None:
    async with connect(nats_settings(platform_files, nats_server), "test") as nats, asyncio.timeout(120):
        bucket = await nats.key_value("leases", ttl_seconds=1.0)
        await bucket.put("scheduler", b"held")
        with pytest.raises(KeyNotFoundError):
            while True:
                await bucket.get("scheduler")
                await asyncio.sleep(0.05)
