"""A process of its own for tests of SIGTERM: it serves until it is stopped, and says when its resource closes."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from servicekit.server import until_stopped
from servicekit.settings import ProcessSettings
from tests.servicekit.rpc.desk import serving_desks


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextlib.asynccontextmanager
async def resource() -> AsyncIterator[None]:
    yield
    say("resource closed")


async def serve(settings: ProcessSettings, credentials: Path) -> None:
    async with resource(), serving_desks(settings, credentials) as serving:
        say(f"port {serving.running.port}")
        stopping = asyncio.create_task(until_stopped())
        await serving.desk.entered.wait()
        say("call under way")
        await stopping
        # The call under way ends a moment after the signal, while the server drains.
        asyncio.get_running_loop().call_later(0.3, serving.desk.go_on.set)
    say("stopped")


if __name__ == "__main__":
    asyncio.run(serve(ProcessSettings(), Path(sys.argv[1])))
