"""Other people's servers: started, pinned, measured, stopped."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.serving.checking import Checking
from benchmarks.serving.endpoint import Endpoint
from benchmarks.serving.environments import environment
from benchmarks.serving.options import Options
from benchmarks.serving.question import Question

LABELS = {
    "kserve": "KServe SDK 0.21 (gRPC)",
    "mlserver": "MLServer 1.7 (gRPC)",
    "pytriton": "PyTriton 0.7 (gRPC)",
    "litserve": "LitServe 0.2 (JSON)",
    "bentoml": "BentoML 1.4 (JSON)",
    "rayserve": "Ray Serve 2.60 (JSON)",
}
_SPEAK_GRPC = ("kserve", "mlserver", "pytriton")
_ADAPTERS = Path(__file__).parent / "peers"
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_KILL_SECONDS = 2.0
_LOOK_SECONDS = 0.2
_PORTS = 3


class PeerFailed(Exception):
    """A peer does not serve; the message says why."""


@contextlib.contextmanager
def running_peer(name: str, question: Question, options: Options) -> Iterator[Endpoint]:
    """Run a peer on the server's core while the block runs.

    Args:
        name: of options.PEERS.
        question: what it serves, and what is asked of it.
        options: the cache, cores and threads.

    Raises:
        EnvironmentFailed: it could not be installed.
        PeerFailed: it did not start, or answered wrong.
    """
    python = environment(options.cache, name)
    with tempfile.TemporaryDirectory(prefix="lb-", ignore_cleanup_errors=True) as folder:
        port = _free_ports()
        log = Path(folder, "log")
        process = _start(name, python, question, options, port, Path(folder), log)
        try:
            endpoint = Endpoint(port, question, is_grpc=name in _SPEAK_GRPC)
            _wait(process, endpoint, log)
            yield endpoint
        finally:
            _stop(process)


def _start(
    name: str, python: Path, question: Question, options: Options, port: int, folder: Path, log: Path
) -> subprocess.Popen[bytes]:
    command = ["taskset", "-c", str(options.server_core), str(python), str(_ADAPTERS / f"{name}_server.py")]
    variables = {
        "BENCH_MODEL": str(question.onnx),
        "BENCH_NAME": question.model,
        "BENCH_PORT": str(port),
        "BENCH_THREADS": str(options.threads),
        "BENCH_FOLDER": str(folder),
        "OMP_NUM_THREADS": str(options.threads),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    # Its environment is its own: nothing of ours on its path.
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, **variables},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes], endpoint: Endpoint, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    problem = ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise PeerFailed(f"it ended with {process.returncode}: {_last_line(log)}")
        with Checking(endpoint) as checking:
            problem = checking.ask()
        if not problem:
            return
        time.sleep(_LOOK_SECONDS)
    raise PeerFailed(f"no right answer within {_START_SECONDS:g} s: {problem}; its log ends: {_last_line(log)}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a peer and all that it started, wherever those put themselves."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    # Killed is not yet gone, and the next peer wants the core for itself.
    psutil.wait_procs(family, _KILL_SECONDS)
    process.kill()
    process.wait()


def _free_ports() -> int:
    """Return the first of a few free ports in a row."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                for offset in range(1, _PORTS):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port + offset))
            except (OSError, OverflowError):
                continue
            return port


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][-300:] if lines else "nothing was printed"
