"""The page of a process's metrics, for Prometheus."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from prometheus_client import MetricsHandler

_WAKE_SECONDS = 1.0


class _OnIpv6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextmanager
def serving_metrics(host: str, port: int) -> Iterator[None]:
    """Serve this process's metrics in a thread.

    Not prometheus_client's own server: that looks twice a second whether it is to stop, in every process.

    Args:
        host: the address to listen on.
        port: the port; 0 for no page.

    Raises:
        OSError: the port is taken.
    """
    if not port:
        yield
        return
    server = (_OnIpv6 if ":" in host else ThreadingHTTPServer)((host, port), MetricsHandler)
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            server.handle_request()

    thread = threading.Thread(target=serve, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        with contextlib.suppress(OSError):
            # It waits for a call.
            socket.create_connection((host, port), _WAKE_SECONDS).close()
        thread.join(_WAKE_SECONDS)
        server.server_close()
