"""A whole platform, as `lepton up` starts it, in a folder and on ports of its own."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lepton.connection import Connection

_OFFSETS = (0, 1, 2, 11, 12, 13, 14, 15, 22, 31, 32, 33, 34, 35, 51, 52, 53, 54, 55, 101, 102, 201, 202, 251, 252)


@dataclass(frozen=True)
class Platform:
    """A running platform.

    Args:
        home: its folder.
        base_port: its first port.
        environment: what a client process needs to find it.
    """

    home: Path
    base_port: int
    environment: dict[str, str]

    def connect(self, token: str | None = None) -> Connection:
        """Return a connection with the admin's token, or another one."""
        own = (self.home / "credentials" / "token").read_text()
        ca = (self.home / "credentials" / "ca.pem").read_bytes()
        return Connection("127.0.0.1", token or own, ca, self.base_port)

    def lepton(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command as a user would."""
        command = [sys.executable, "-m", "lepton.cli", *arguments]
        return subprocess.run(command, env=self.environment, check=check, capture_output=True, text=True, timeout=300)

    def status(self) -> dict[str, Any]:
        """Return what `lepton status --json` says of each process."""
        services: dict[str, Any] = json.loads(self.lepton("status", "--json", check=False).stdout)["services"]
        return services

    def kill(self, process: str) -> None:
        """End a process with SIGKILL; the supervisor starts it again."""
        os.kill(self.status()[process]["pid"], signal.SIGKILL)

    def wait_healthy(self, seconds: float = 120.0) -> None:
        """Wait for every process to be healthy."""
        wait_for(lambda: all(entry["healthy"] for entry in self.status().values()), seconds, "a healthy platform")


def start_platform(home: Path, *options: str, **environment: str) -> Platform:
    """Start a platform as `lepton up --detach` does."""
    base_port = _free_base_port()
    full = {**os.environ, "LEPTON_HOME": str(home), "LEPTON_PROGRESS": "0", **environment}
    platform = Platform(home, base_port, full)
    try:
        platform.lepton("up", "--detach", "--base-port", str(base_port), *options)
    except subprocess.CalledProcessError as error:
        logs = "\n".join(f"{path.name}: {path.read_text()[-1500:]}" for path in (home / "logs").glob("*.log"))
        raise AssertionError(f"the platform did not start: {error.stderr}\n{logs}") from error
    return platform


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that tests share: they use names of their own."""
    running = start_platform(tmp_path_factory.mktemp("platform"))
    yield running
    running.lepton("down")


@pytest.fixture
def own_platform(tmp_path: Path) -> Iterator[Platform]:
    """A platform that a test may hurt."""
    running = start_platform(tmp_path / "home")
    yield running
    running.lepton("down", check=False)


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until a condition holds.

    Raises:
        AssertionError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.1)


def _free_base_port() -> int:
    for _ in range(100):
        # Below those that systems give to whoever asks for any: one would be taken between this look and the start.
        base = random.randrange(12_000, 32_400, 300)
        if all(_is_free(base + offset) for offset in _OFFSETS):
            return base
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
