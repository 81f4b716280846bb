"""Asks a process over TLS whether it is healthy, by the standard gRPC health protocol, or by its open port."""

import asyncio
import sys
from pathlib import Path

import grpc

from lepton.embedded.home import Home

# The request is empty and the answer's field 1 is 1 (SERVING): two bytes do not need grpcio-health-checking's stubs.
_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"


def credentials_of(home: Home) -> grpc.ChannelCredentials:
    """Return what opens every port of the platform, private ones included: a service's own certificate."""
    folder = home.credentials
    key, certificate = (folder / "inference.key").read_bytes(), (folder / "inference.pem").read_bytes()
    return grpc.ssl_channel_credentials(home.ca.read_bytes(), key, certificate)


async def is_healthy(address: str, credentials: grpc.ChannelCredentials | None, timeout_seconds: float = 2.0) -> bool:
    """Return whether a process answers SERVING within the time.

    Args:
        address: host:port to ask at.
        credentials: of the channel; None where an open port is all there is to ask, as nats-server's.
        timeout_seconds: how long to wait for the answer.
    """
    if credentials is None:
        return await _accepts(address, timeout_seconds)
    # A channel of its own each time: a cached subchannel would sit in its reconnect back-off while the process starts.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
    async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
        check = channel.unary_unary(_CHECK, request_serializer=bytes, response_deserializer=bytes)
        try:
            return bool(await check(b"", timeout=timeout_seconds) == _SERVING)
        except grpc.aio.AioRpcError:
            return False


async def _accepts(address: str, timeout_seconds: float) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), timeout_seconds)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def main() -> None:
    """Exit with 0 where a process answers SERVING: `python -m lepton.embedded.health HOST:PORT CA`, for containers."""
    address, authority = sys.argv[1:3]
    credentials = grpc.ssl_channel_credentials(Path(authority).read_bytes())
    raise SystemExit(0 if asyncio.run(is_healthy(address, credentials, 4.0)) else 1)


if __name__ == "__main__":
    main()
