"""How long `lepton up` takes with warm caches, and what the idle platform costs: `python -m benchmarks.startup`."""

import json
import tempfile
import time

import psutil

from benchmarks.harness import BASE_PORT, environment, lepton, median, show

_RUNS = 5
_IDLE_SECONDS = 30.0
_SETTLE_SECONDS = 10.0


def main() -> None:
    """Start and stop a platform five times; measure the last one idle."""
    seconds = []
    with tempfile.TemporaryDirectory(prefix="lepton-benchmark-") as folder, environment(folder):
        for run in range(_RUNS + 1):
            started = time.perf_counter()
            lepton("up", "--detach", "--base-port", str(BASE_PORT))
            if run:
                seconds.append(time.perf_counter() - started)
            if run < _RUNS:
                lepton("down")
        memory, cpu = _idle()
        lepton("down")
    show(
        "embedded platform: nats-server, five services, its workers",
        [
            ("lepton up to all healthy, command included", median(seconds), "s", 5.0),
            ("idle memory (PSS)", memory / (1 << 30), "GiB", 1.2),
            ("idle processor use", cpu * 100, "% of a core", 2.0),
        ],
    )


def _idle() -> tuple[float, float]:
    """Return the processes' PSS, bytes, and their share of a core."""
    time.sleep(_SETTLE_SECONDS)
    pids = [entry["pid"] for entry in json.loads(lepton("status", "--json"))["services"].values()]
    roots = [psutil.Process(pid) for pid in pids]
    processes = {*roots, roots[0].parent(), *(child for root in roots for child in root.children(recursive=True))}
    family = [process for process in processes if process is not None]
    before = sum(sum(process.cpu_times()[:2]) for process in family)
    time.sleep(_IDLE_SECONDS)
    used = sum(sum(process.cpu_times()[:2]) for process in family) - before
    return sum(process.memory_full_info().pss for process in family), used / _IDLE_SECONDS


if __name__ == "__main__":
    main()
