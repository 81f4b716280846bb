"""`python -m benchmarks.ray_scaling`: rows a second of a CNN by one Ray worker and by two, one thread each.

What is measured is the steady state: the median time of a pass over the rows, without the first pass and the start of
processes, which takes some ten seconds. It needs `lepton[ray]`, and as many free cores as workers.
"""

import argparse
import json
import os
import time
from statistics import median
from typing import Any

import numpy as np

ROWS, BATCH, EPOCHS = 4096, 256, 6


def measure(workers: int, rows: int = ROWS, batch: int = BATCH, epochs: int = EPOCHS, address: str = "") -> float:
    """Return the rows a second that some workers learn from.

    Args:
        workers: processes of one thread each.
        rows: of the training.
        batch: rows of a step.
        epochs: passes; the first is not counted.
        address: of a Ray cluster with a core for each; by default one is started on this machine.
    """
    if address:
        return _rate(address, workers, rows, batch, epochs)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": 200 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        return _rate(cluster.address, workers, rows, batch, epochs)
    finally:
        cluster.shutdown()


def _rate(address: str, workers: int, rows: int, batch: int, epochs: int) -> float:
    import torch

    from services.training.adapters.ray.engine import RayEngine
    from services.training.domain.families.catalog import resolve_hyperparameters
    from services.training.domain.families.image.network import Learner, new_network
    from services.training.domain.families.model import Progress, Run
    from services.training.domain.families.neural.batches import Rows
    from services.training.domain.families.neural.loop import train_network

    settings = resolve_hyperparameters("cnn", {"epochs": epochs, "batch_size": batch})
    draw = np.random.default_rng(0)
    size = int(settings["image_size"])
    images = torch.from_numpy(draw.integers(0, 256, (rows, size, size, 3), dtype=np.uint8))
    goals = torch.from_numpy(draw.integers(0, 10, rows))
    network = Learner(new_network(settings, 3, 10, 0), torch.full((3,), 0.5), torch.full((3,), 0.25), "shift")
    ends: list[float] = []

    def report(progress: Progress) -> None:
        if progress.metrics:
            ends.append(time.perf_counter())

    run = Run(settings, 0, report, lambda: False, threads=1, engine=RayEngine(address, workers))
    train_network(network, torch.nn.CrossEntropyLoss(), Rows(images, goals), run)
    return rows / median(np.diff(ends))


def main() -> None:
    """Print the table, and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    given = parser.parse_args()
    rates = {workers: measure(workers, given.rows, given.batch, given.epochs) for workers in given.workers}
    least = rates[min(rates)]
    for workers, rate in rates.items():
        print(f"{workers} workers: {rate:8.0f} rows/s, {rate / least:.2f}x")
    found = {"rows_per_second": rates, "speedup": rates[max(rates)] / least, "cores": os.cpu_count()}
    print(json.dumps(found | {"load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
