"""A process's gRPC server: TLS, the guard, health, reflection, and an orderly end.

Two ports: the public one takes bearer tokens over TLS; the private one asks for a certificate of the platform's CA, for
calls between Lepton's own processes. (gRPC's Python server cannot ask for a certificate without requiring it.)
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import grpc
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from servicekit.auth import TokenVerifier
from servicekit.rpc.guard import Guard
from servicekit.rpc.permissions import method_permissions
from servicekit.settings import ProcessSettings

_log = structlog.get_logger(__name__)

MakeServer = Callable[[Guard, Sequence[tuple[str, int]]], grpc.aio.Server]


@dataclass(frozen=True)
class Servicer:
    """One service of a server.

    Args:
        name: its full name, such as lepton.v1.DataService.
        add: the generated add_XServicer_to_server, already given the servicer: a function of the server.
    """

    name: str
    add: Callable[[grpc.aio.Server], None]


class RunningServer:
    """A server that answers.

    Args:
        server: the gRPC server.
        guard: its interceptor.
        health: its health service.
        port, private_port: where it listens.
    """

    def __init__(
        self, server: grpc.aio.Server, guard: Guard, health: HealthServicer, port: int, private_port: int
    ) -> None:
        self._server = server
        self.guard = guard
        self._health = health
        self.port = port
        self.private_port = private_port
        self.draining = asyncio.Event()

    async def set_healthy(self, names: Iterable[str], healthy: bool) -> None:
        """Answer health checks for the process and some of its services."""
        status = health_pb2.HealthCheckResponse.SERVING if healthy else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *names):
            await self._health.set(name, status)

    async def drain(self, seconds: float) -> None:
        """Turn health to NOT_SERVING, take no more calls, end the watches, and let other calls end within the time."""
        self.draining.set()
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._server.stop(seconds))
        # The intake closes first, or the watches' clients would come straight back.
        await asyncio.sleep(0)
        self.guard.end_watches()
        await stopping


@contextlib.asynccontextmanager
async def running_server(
    settings: ProcessSettings,
    servicers: Iterable[Servicer],
    *,
    healthy: bool = True,
    options: Mapping[str, int] | None = None,
    make_server: MakeServer | None = None,
    plaintext_port: int = 0,
) -> AsyncIterator[RunningServer]:
    """Run a server with some services; leaving drains it.

    Args:
        settings: ports, certificates, keys and limits.
        servicers: the services.
        healthy: whether it is healthy at once; else `set_healthy` says when.
        options: further gRPC channel options.
        make_server: another server than gRPC's own, of a guard and channel options.
        plaintext_port: one more port, without TLS and for tokens, on a loopback address alone; 0 for none.

    Raises:
        ValueError: a plaintext port for others than this machine.
    """
    servicers = list(servicers)
    names = [servicer.name for servicer in servicers]
    guard = Guard(
        TokenVerifier(settings.token_public_keys),
        method_permissions(names),
        settings.call_timeout_seconds,
        settings.max_message_bytes,
    )
    server = (make_server or _own_server)(guard, _options(settings, options or {}))
    for servicer in servicers:
        servicer.add(server)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(
        (*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), server
    )
    port = server.add_secure_port(f"{settings.host}:{settings.port}", _credentials(settings, mutual=False))
    private_port = server.add_secure_port(
        f"{settings.host}:{settings.private_port}", _credentials(settings, mutual=True)
    )
    if plaintext_port:
        server.add_insecure_port(f"{_loopback(settings.host)}:{plaintext_port}")
    # Before the start, for a health service begins as SERVING.
    running = RunningServer(server, guard, health, port, private_port)
    await running.set_healthy(names, healthy)
    await server.start()
    _log.info("listening", port=port, private_port=private_port)
    try:
        yield running
    finally:
        await running.drain(settings.drain_seconds)


def _loopback(host: str) -> str:
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"a port without TLS would show tokens to the network: it cannot listen on {host}")
    return host


def _own_server(guard: Guard, options: Sequence[tuple[str, int]]) -> grpc.aio.Server:
    return grpc.aio.server(interceptors=[guard], options=options)


async def until_stopped() -> None:
    """Wait for SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    _log.info("stopping")


def _options(settings: ProcessSettings, more: Mapping[str, int]) -> list[tuple[str, int]]:
    options = {
        "grpc.max_receive_message_length": settings.max_message_bytes,
        "grpc.max_send_message_length": settings.max_message_bytes,
        # Two processes on one port by accident would share its calls; those that mean to, say so.
        "grpc.so_reuseport": 0,
        # Calls under way on one connection: who needs more opens another.
        "grpc.max_concurrent_streams": 1024,
        # Clients keep their connections alive as often as they like.
        "grpc.http2.min_ping_interval_without_data_ms": 5_000,
        "grpc.keepalive_permit_without_calls": 1,
        **more,
    }
    return list(options.items())


def _credentials(settings: ProcessSettings, *, mutual: bool) -> grpc.ServerCredentials:
    pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
    authority = settings.tls_ca.read_bytes() if mutual else None
    return grpc.ssl_server_credentials([pair], root_certificates=authority, require_client_auth=mutual)
