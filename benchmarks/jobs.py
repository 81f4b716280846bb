"""From a CSV to the first prediction, and what the platform adds to a job: `python -m benchmarks.jobs`."""

import time

from benchmarks.harness import CREDIT, median, running_platform, show
from lepton import Deploy
from lepton.connection import Connection
from lepton.datasets import Dataset
from lepton.models import BoostedTrees

_RUNS = 5


def main() -> None:
    """Run both five times after a warm-up; medians."""
    with running_platform() as connection:
        walks = [_walk(connection, run) for run in range(_RUNS + 1)][1:]
        dataset = Dataset.import_file(CREDIT, name="bare", label="creditability", connection=connection)
        jobs = [_job(dataset, connection, run) for run in range(_RUNS + 1)][1:]
        bare = [_bare(dataset) for _ in range(_RUNS + 1)][1:]
    show(
        "1,000 rows of credit data, boosted trees",
        [
            ("CSV to first prediction through the SDK, platform up", median(walks), "s", 8.0),
            ("job: submit to READY, beyond the bare library", median(jobs) - median(bare), "s", 3.0),
        ],
    )
    print(f"job {median(jobs):.2f} s, bare library {median(bare):.2f} s")


def _walk(connection: Connection, run: int) -> float:
    started = time.perf_counter()
    # Another name each time: the same content in the same dataset would be found, not imported.
    data = Dataset.import_file(CREDIT, name=f"walk-{run}", label="creditability", connection=connection)
    model = BoostedTrees(name=f"walk-{run}", connection=connection).fit(data)
    Deploy(model).save().predict(data.head(1))
    return time.perf_counter() - started


def _job(dataset: Dataset, connection: Connection, run: int) -> float:
    started = time.perf_counter()
    BoostedTrees(name="job", seed=run, connection=connection).fit(dataset)
    return time.perf_counter() - started


def _bare(dataset: Dataset) -> float:
    """Fit the same trees with LightGBM on a table that is in memory already."""
    import torch  # noqa: F401  (brings libgomp where the system has none)
    from lightgbm import LGBMClassifier

    frame = dataset.to_pandas()
    features = frame.drop(columns=["creditability"])
    features = features.astype(dict.fromkeys(features.select_dtypes(exclude="number").columns, "category"))
    started = time.perf_counter()
    LGBMClassifier(n_estimators=200, learning_rate=0.05, num_leaves=15, verbosity=-1).fit(
        features, frame["creditability"]
    )
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
