"""Prometheus reads a process's metrics; the page goes when the process does."""

import socket
import urllib.request

import pytest

from servicekit.metrics_page import serving_metrics


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_metrics_are_served_until_the_block_ends(host: str) -> None:
    if host == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with serving_metrics(host, port):
        bracketed = f"[{host}]" if ":" in host else host
        for _ in range(3):
            with urllib.request.urlopen(f"http://{bracketed}:{port}/metrics", timeout=120) as answer:
                assert b"python_info" in answer.read()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), 120.0).close()
    with serving_metrics(host, port):
        socket.create_connection((host, port), 120.0).close()


def test_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="in use"):
            with serving_metrics("127.0.0.1", taken.getsockname()[1]):
                raise AssertionError


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
