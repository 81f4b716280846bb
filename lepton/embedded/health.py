"""Asks a process over TLS whether it is healthy, by the standard gRPC health protocol, or by its open port."""

import asyncio
from pathlib import Path

import grpc

from lepton.embedded.processes import Process

# The request is empty and the answer's field 1 is 1 (SERVING): two bytes do not need grpcio-health-checking's stubs.
_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"


async def is_healthy(process: Process, ca: Path, timeout_seconds: float = 2.0) -> bool:
    """Return whether the process answers SERVING (nats-server: accepts a connection) within the time."""
    if not process.is_grpc:
        return await _accepts(process.address, timeout_seconds)
    credentials = grpc.ssl_channel_credentials(ca.read_bytes())
    # A channel of its own each time: a cached subchannel would sit in its reconnect back-off while the process starts.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.secure_channel(process.address, credentials, options=options) as channel:
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
