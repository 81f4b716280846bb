"""uvicorn on the process's own event loop: TLS, a port that the workers of a machine share, an orderly end."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import structlog
import uvicorn

from services.inference.settings import WorkerSettings

_log = structlog.get_logger(__name__)
_BACKLOG = 1024
_KEEP_ALIVE_SECONDS = 60


class _Server(uvicorn.Server):
    """Without signal handlers, which are the process's, and without a clock that ticks ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    async def main_loop(self) -> None:
        """Serve until the end."""
        await self.ended.wait()


@contextlib.asynccontextmanager
async def running_rest(settings: WorkerSettings, app: Any) -> AsyncIterator[int]:
    """Serve an ASGI app while the block runs; the block gets the port.

    Args:
        settings: host, port, certificate and key.
        app: it.
    """
    listening = _listen(settings.host, settings.rest_port or 0)
    port: int = listening.getsockname()[1]
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(round(settings.drain_seconds), 1),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listening]), name="rest")
    try:
        while not (server.started or serving.done()):  # noqa: ASYNC110  (uvicorn has no event for it)
            await asyncio.sleep(0.01)
        if serving.done():
            await serving
        _log.info("listening for REST", port=port)
        yield port
    finally:
        server.ended.set()
        await serving


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    # Workers of one machine share the port: the kernel spreads connections over them.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening
