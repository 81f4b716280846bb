"""Closed loops by h2load, and how replies are known to be right while it counts.

h2load counts HTTP statuses, and a gRPC error is an HTTP 200, too. So one reply is compared with the right answer
before; a client of our own asks and compares all the while; the server's own count of failed calls must not move; and
the bytes that h2load received must be those of as many right replies, for an error's text is in its trailers.
"""

import contextlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import percentile
from benchmarks.serving.checking import Checking
from benchmarks.serving.client import run_client
from benchmarks.serving.endpoint import Endpoint
from benchmarks.serving.options import Options
from benchmarks.serving.question import METHOD, frame

HOW_TO_GET_IT = "h2load is not installed (Debian: apt-get install nghttp2-client)"
_DEADLINE = "10S"
_SLACK_SECONDS = 60.0


class RunFailed(Exception):
    """A run cannot be counted; the message says why."""


@dataclass(frozen=True)
class Run:
    """One run, or the median of several.

    Args:
        rate: right answers a second.
        p50, p99: latencies, ms; 0 where they were not recorded.
        failed: requests that were not answered, or by an error.
        notes: what to say of it.
    """

    rate: float
    p50: float
    p99: float
    failed: int = 0
    notes: tuple[str, ...] = field(default=())


def has_h2load() -> bool:
    """Return whether h2load is installed."""
    return shutil.which("h2load") is not None


def measure(endpoint: Endpoint, options: Options, in_flight: int) -> Run:
    """Return the median of some runs in a closed loop.

    Args:
        endpoint: who is asked what.
        options: how long and how often.
        in_flight: requests under way.

    Raises:
        RunFailed: answers were wrong or missing.
    """
    check_once(endpoint)
    runs = [_run(endpoint, options, in_flight) for _ in range(options.runs)]
    return Run(
        statistics.median(run.rate for run in runs),
        statistics.median(run.p50 for run in runs),
        statistics.median(run.p99 for run in runs),
        notes=tuple(dict.fromkeys(note for run in runs for note in run.notes)),
    )


def check_once(endpoint: Endpoint) -> None:
    """Ask once and compare.

    Raises:
        RunFailed: the answer is not the right one.
    """
    with Checking(endpoint) as checking:
        if problem := checking.ask():
            raise RunFailed(f"the first reply is wrong: {problem}")


def _run(endpoint: Endpoint, options: Options, in_flight: int) -> Run:
    with Checking(endpoint) as checking, checking.going_on(), no_failures(endpoint):
        if has_h2load():
            run = h2load(endpoint, options, in_flight, seconds=options.seconds)
        else:
            run = _own_client(endpoint, options, in_flight)
    if run.failed:
        raise RunFailed(f"{run.failed} requests failed")
    if checking.problems:
        raise RunFailed(f"{len(checking.problems)} of {checking.asked} checks failed: {checking.problems[0]}")
    return run


@contextlib.contextmanager
def no_failures(endpoint: Endpoint) -> Iterator[None]:
    """Hold the server to its own count of failed calls.

    Raises:
        RunFailed: it counted some while the block ran.
    """
    before = endpoint.count_failures() if endpoint.count_failures else 0
    yield
    if endpoint.count_failures and (failed := endpoint.count_failures() - before):
        raise RunFailed(f"the server counted {failed} failed calls")


def h2load(
    endpoint: Endpoint, options: Options, in_flight: int, *, seconds: float, rate: float = 0.0, log: bool = True
) -> Run:
    """Run h2load once.

    Args:
        endpoint: who is asked what.
        options: cores, streams and warm-up.
        in_flight: requests under way, at most.
        seconds: how long it counts.
        rate: requests a second over all connections; 0 for as many as are answered.
        log: whether to record latencies.

    Raises:
        RunFailed: it counted nothing.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-h2load-") as folder:
        body, record = Path(folder, "body"), Path(folder, "log")
        body.write_bytes(frame(endpoint.body) if endpoint.is_grpc else endpoint.body)
        command = _command(endpoint, options, in_flight, seconds, rate, body)
        command[-1:-1] = ["--log-file", str(record)] if log else []
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + options.warm_up_seconds + _SLACK_SECONDS,
        )
        if ran.returncode:
            raise RunFailed(f"h2load ended with {ran.returncode}: {ran.stderr.strip()[-300:]}")
        p50, p99 = _latencies(record) if log else (0.0, 0.0)
    answered, failed = count_replies(ran.stdout, endpoint.reply_bytes if endpoint.is_grpc else 0, in_flight)
    return Run(answered / seconds, p50, p99, failed)


def _command(
    endpoint: Endpoint, options: Options, in_flight: int, seconds: float, rate: float, body: Path
) -> list[str]:
    streams = min(options.streams, in_flight) if endpoint.is_grpc else 1
    connections = in_flight // streams
    command = [
        *("taskset", "-c", str(options.load_core), "h2load"),
        *("-c", str(connections), "-m", str(streams), "-t", "1"),
        *("-D", _milliseconds(seconds), "--warm-up-time", _milliseconds(options.warm_up_seconds), "-d", str(body)),
    ]
    command += ["--rps", f"{rate / connections:.3f}"] if rate else []
    for name, value in _headers(endpoint).items():
        command += ["-H", f"{name}: {value}"]
    return command + ([] if endpoint.is_grpc else ["--h1"]) + [endpoint.url(METHOD)]


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _headers(endpoint: Endpoint) -> dict[str, str]:
    if not endpoint.is_grpc:
        return {"content-type": "application/json"}
    headers = {"content-type": "application/grpc", "te": "trailers", "grpc-timeout": _DEADLINE}
    return {**headers, **({"authorization": f"Bearer {endpoint.token}"} if endpoint.token else {})}


def count_replies(text: str, reply_bytes: int, in_flight: int) -> tuple[int, int]:
    """Return how many requests were answered and how many failed, by h2load's summary.

    Args:
        text: what h2load printed.
        reply_bytes: that each right reply brings; 0 where an HTTP status tells errors.
        in_flight: requests under way, at most.

    Raises:
        RunFailed: it counted nothing.
    """
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    traffic = re.search(r"\((\d+)\) data", text)
    if not counts or not traffic or not int(counts[1]):
        raise RunFailed(f"h2load counted no reply: {text[-300:]}")
    # Errored ones are among the failed.
    succeeded, failed, _, timeout = map(int, counts.groups())
    missing = succeeded - int(traffic[1]) / reply_bytes if reply_bytes else 0.0
    # Replies under way as counting begins or ends may be cut in two.
    errors = round(missing) if missing > in_flight + 1 else 0
    return succeeded - errors, failed + timeout + errors


def _latencies(record: Path) -> tuple[float, float]:
    """Return the 50th and 99th percentile of h2load's log, ms; its lines are start, status, microseconds."""
    microseconds = sorted(int(line.rsplit("\t", 1)[1]) for line in record.read_text().splitlines())
    return percentile(microseconds, 50) / 1000, percentile(microseconds, 99) / 1000


def _own_client(endpoint: Endpoint, options: Options, in_flight: int) -> Run:
    """Run a grpc.aio client in place of h2load: it is slower than the server and measures itself."""
    if not endpoint.is_grpc:
        raise RunFailed(HOW_TO_GET_IT)
    print(f"warning: {HOW_TO_GET_IT}; a Python client asks instead, and limits the rate", file=sys.stderr)
    found = run_client(endpoint, options.load_core, "closed", in_flight, options.seconds)
    if found.failed:
        raise RunFailed(f"{found.failed} of {found.asked} failed: {found.problem}")
    return Run(found.rate, found.p50, found.p99, notes=("by a Python client, which limits it",))
