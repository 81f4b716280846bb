"""`python -m tests.training.ray.cluster`: a Ray cluster of a head and three nodes on this machine, until stdin ends.

It prints one line: the head's address, and the process of each node that runs workers. A process of its own, so that
the tests load Ray only where they are its driver.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from subprocess import PIPE, Popen
from typing import Any

import psutil

NODES = 3


@dataclass
class RayCluster:
    """A running one.

    Args:
        address: of its head.
        raylets: the process of each node but the head.
    """

    address: str
    raylets: list[int]

    def busy_node(self) -> int:
        """Return the process of a node that trains; 0 where none does."""
        return next((pid for pid in self.raylets if any(map(_trains, _children(pid)))), 0)

    def kill(self, raylet: int) -> None:
        """End a node and all that runs on it, as if its machine had lost its power."""
        for process in (psutil.Process(raylet), *_children(raylet)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def _trains(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "TrainWorker" in " ".join(process.cmdline())
    return False


@contextlib.contextmanager
def running_cluster() -> Iterator[RayCluster]:
    """Run a cluster; leaving ends it."""
    # Ray's paths of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": folder}
        command = [sys.executable, "-m", "tests.training.ray.cluster"]
        with Popen(command, stdin=PIPE, stdout=PIPE, stderr=sys.stderr, env=environment, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield RayCluster(**json.loads(process.stdout.readline()))
            finally:
                process.stdin.close()
                process.wait(60)


def main() -> None:
    """Run until stdin ends."""
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from ray.cluster_utils import Cluster

    shared: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **shared})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20, wait=False) for _ in range(NODES)]
    cluster.wait_for_nodes(timeout=120)
    raylets = [node.all_processes["raylet"][0].process.pid for node in nodes]
    told.write(json.dumps({"address": cluster.address, "raylets": raylets}) + "\n")
    sys.stdin.read()
    cluster.shutdown()
    time.sleep(0.1)


if __name__ == "__main__":
    main()
