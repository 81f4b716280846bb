"""A real nats-server for tests: TLS, a password, JetStream encrypted at rest, as the embedded platform runs it."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_START_SECONDS = 120.0


class NatsServer:
    """One nats-server process on a port of its own, which it keeps over restarts.

    Args:
        folder: where its configuration and JetStream's files lie.
        credentials: the platform's credentials: ca.pem, nats.pem, nats.key, nats-password.
    """

    def __init__(self, folder: Path, credentials: Path) -> None:
        self._folder = folder
        self.password_file = credentials / "nats-password"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._configuration = folder / "nats.conf"
        self._configuration.write_text(_configuration(self.port, folder, credentials))

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"tls://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        binary = Path(sys.executable).parent / "nats-server"
        with (self._folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([binary, "--config", self._configuration], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.01)
        raise RuntimeError(f"nats-server did not start:\n{(self._folder / 'nats.log').read_text()[-4000:]}")

    def kill(self) -> None:
        """End it with SIGKILL: nothing is flushed, nobody is told."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it in its tracks, as a machine out of memory does: connections stay, nothing answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after a pause."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def nats_server(platform_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A nats-server that all tests of the session share: use a workspace or a durable name of your own."""
    yield from _running(tmp_path_factory.mktemp("nats"), platform_files)


@pytest.fixture
def own_nats_server(platform_files: Path, tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server of the test's own, to kill and start again."""
    folder = tmp_path / "nats"
    folder.mkdir()
    yield from _running(folder, platform_files)


def _running(folder: Path, credentials: Path) -> Iterator[NatsServer]:
    server = NatsServer(folder, credentials)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def _configuration(port: int, folder: Path, credentials: Path) -> str:
    return f"""\
listen: "127.0.0.1:{port}"
server_name: lepton-test
tls {{
  cert_file: "{credentials / "nats.pem"}"
  key_file: "{credentials / "nats.key"}"
}}
authorization {{
  user: lepton
  password: "{(credentials / "nats-password").read_text().strip()}"
}}
jetstream {{
  store_dir: "{folder / "jetstream"}"
  cipher: aes
  key: "{(credentials / "jetstream.key").read_text().strip()}"
  max_file_store: 4GB
}}
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
