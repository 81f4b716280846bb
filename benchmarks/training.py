"""What the platform adds to training, and what tuning gains: `python -m benchmarks.training` (see README.md there)."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from benchmarks import bare_training
from benchmarks.harness import BASE_PORT, CREDIT, median, running_platform, show
from lepton.connection import Connection
from lepton.datasets import Dataset
from lepton.jobs import Job
from lepton.models import MLP, BoostedTrees, LogisticRegression, Model, Transformer
from lepton.studies import Budget

_REVIEWS = Path(__file__).parents[1] / "examples" / "reviews" / "chinese_reviews.csv"
_TEST_ROWS = 2000
_TABLE_ROWS, _TABLE_COLUMNS = 1_000_000, 10
_TABLE_MEMORY_BYTES = 4 << 30
# How far apart checkpoints are by default, and for the measurement: thirty times as many tell their cost from noise.
_CHECKPOINT_SECONDS, _OFTEN_SECONDS, _NEVER_SECONDS = 30.0, 1.0, 1e6
_TRIALS = 20

Row = tuple[str, float, str, float]


def main() -> None:
    """Measure the rows that were asked for, and print them as one table."""
    given = _arguments()
    rows: list[Row] = []
    if on_one := [name for name in given.rows if name in _ROWS]:
        with running_platform() as connection:
            for name in on_one:
                rows += _ROWS[name](connection, given.rounds)
    if "checkpoints" in given.rows:
        rows += checkpoints(given.rounds)
    if "ray" in given.rows:
        rows += ray_workers(given.rounds)
    show("training, one core a job", rows)


def trees(connection: Connection, rounds: int) -> list[Row]:
    """Fit trees on a million rows, on the platform and by LightGBM called bare, in turn."""
    with tempfile.TemporaryDirectory(prefix="lepton-benchmark-") as folder:
        path = Path(folder) / "million.parquet"
        pyarrow.parquet.write_table(_million(), path)
        dataset = Dataset.import_file(path, name="million", label="y", connection=connection)

        def fit(run: int) -> None:
            model = BoostedTrees(name="million", seed=run, connection=connection, **bare_training.TREES)
            model.fit(dataset, resources={"cores": 1, "memory_bytes": _TABLE_MEMORY_BYTES})

        return [_against_bare("trees on 1,000,000 rows", fit, "trees", path, rounds)]


def transformer(connection: Connection, rounds: int) -> list[Row]:
    """Fit a Transformer on the reviews, on the platform and by torch called bare, in turn."""
    train, test = _reviews(connection)

    def fit(run: int) -> None:
        model = Transformer(name="reviews", seed=run, connection=connection, **bare_training.TRANSFORMER)
        model.fit(train, evaluation_data=test)

    return [_against_bare("Transformer on the reviews", fit, "transformer", _REVIEWS, rounds)]


def first_step(connection: Connection, rounds: int) -> list[Row]:
    """Submit jobs to a worker that is warm, and wait for the first step of each."""
    dataset = Dataset.import_file(CREDIT, name="credit", label="creditability", connection=connection)
    rows = []
    for model in (BoostedTrees(name="warm", connection=connection), MLP(name="warm", connection=connection)):
        # The first job of a family loads its libraries.
        model.fit(dataset)
        times = []
        for _ in range(2 * rounds + 1):
            time.sleep(5.0)
            times.append(_until_first_step(model, dataset, connection))
        rows.append((f"submit to the first step, warm worker: {model.family}", median(times), "s", 1.0))
    return rows


def checkpoints(rounds: int) -> list[Row]:
    """Fit the Transformer with a checkpoint a second and with none, in turn, on two platforms beside each other."""
    with ExitStack() as stack:
        often, never = (
            stack.enter_context(_platform_that_keeps(seconds, BASE_PORT + offset))
            for seconds, offset in ((_OFTEN_SECONDS, 0), (_NEVER_SECONDS, 300))
        )
        fits = [(_reviews(connection)[0], connection) for connection in (often, never)]
        pairs = [[_timed(partial(_fit_reviews, *fit)) for fit in fits] for _ in range(rounds + 1)][1:]
    shares = [(kept / plain - 1) * _OFTEN_SECONDS / _CHECKPOINT_SECONDS for kept, plain in pairs]
    return [("checkpoints every 30 s, Transformer: share of the run", 100 * median(shares), "%", 3.0)]


def ray_workers(rounds: int) -> list[Row]:
    """Train the CNN by one Ray worker and by two, a thread each."""
    from benchmarks.ray_scaling import measure

    pairs = [(measure(2), measure(1)) for _ in range(rounds)]
    print(f"CNN, samples/s, two Ray workers / one: {', '.join(f'{two:,.0f} / {one:,.0f}' for two, one in pairs)}")
    return [("two Ray workers against one, CNN, samples/s", median([two / one for two, one in pairs]), "x", 1.6)]


def tuned(connection: Connection, _: int) -> list[Row]:
    """Fit three families by their defaults and by a study, and score both on rows that neither saw."""
    rows = []
    for kind, train, test in _held_out():
        plain, best = (kind(name=f"{kind.family.replace('_', '-')}-{what}", connection=connection) for what in "ab")
        kept, judged = (
            Dataset.import_frame(part, name, label=part.columns[-1], connection=connection)
            for part, name in ((train, "train"), (test, "test"))
        )
        plain.fit(kept, evaluation_data=judged)
        best.tune(kept, budget=Budget(trials=_TRIALS), evaluation_data=judged)
        ratio = best.metrics["log_loss"] / plain.metrics["log_loss"]
        rows.append((f"tuned against default, held-out log loss: {kind.family}", ratio, "x", 1.0))
    return rows


_ROWS: dict[str, Callable[[Connection, int], list[Row]]] = {
    "trees": trees,
    "transformer": transformer,
    "first_step": first_step,
    "tuned": tuned,
}


def _against_bare(what: str, fit: Callable[[int], None], bare: str, path: Path, rounds: int) -> Row:
    pairs = [(_timed(partial(fit, run)), _bare(bare, path)) for run in range(rounds + 1)][1:]
    seconds = ", ".join(f"{ours:.1f} / {theirs:.1f}" for ours, theirs in pairs)
    print(f"{what}, seconds, platform / bare: {seconds}", flush=True)
    return f"{what}: platform against bare", median([ours / theirs for ours, theirs in pairs]), "x", 1.1


def _bare(what: str, path: Path) -> float:
    command = [sys.executable, "-m", "benchmarks.bare_training", what, str(path)]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **threads})
    return float(found.stdout.split()[-1])


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _until_first_step(model: Model, dataset: Dataset, connection: Connection) -> float:
    spec = model._fit_spec(dataset, None, None, None)
    began = time.perf_counter()
    job = Job.submit(spec, connection=connection)
    for update in job.watch():
        if update.step or "first batch" in update.message:
            taken = time.perf_counter() - began
            break
    job.wait()
    return taken


@contextmanager
def _platform_that_keeps(seconds: float, base_port: int) -> Iterator[Connection]:
    os.environ["LEPTON_CHECKPOINT_SECONDS"] = str(seconds)
    try:
        with running_platform(base_port) as connection:
            yield connection
    finally:
        os.environ.pop("LEPTON_CHECKPOINT_SECONDS", None)


def _fit_reviews(train: Dataset, connection: Connection) -> None:
    Transformer(name="reviews", connection=connection, **bare_training.TRANSFORMER).fit(train)


def _reviews(connection: Connection) -> tuple[Dataset, Dataset]:
    reviews = pd.read_csv(_REVIEWS)
    train, test = (
        Dataset.import_frame(part, name, label="sentiment", connection=connection)
        for part, name in ((reviews.iloc[:-_TEST_ROWS], "reviews"), (reviews.iloc[-_TEST_ROWS:], "reviews-test"))
    )
    return train, test


def _million() -> pa.Table:
    """Return a million rows of ten numbers, and a class that follows from some of them with noise."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((_TABLE_ROWS, _TABLE_COLUMNS))
    odds = x[:, 0] + np.sin(3 * x[:, 1]) + x[:, 2] * x[:, 3] + draw.logistic(size=_TABLE_ROWS)
    return pa.table({**{f"x{place}": x[:, place] for place in range(_TABLE_COLUMNS)}, "y": (odds > 0).astype(np.int64)})


def _held_out() -> Iterator[tuple[type[Model], pd.DataFrame, pd.DataFrame]]:
    """Yield a family, and rows to train and to score it on: three tenths of the table are for scoring."""
    from sklearn.datasets import load_breast_cancer, load_digits

    credit = pd.read_csv(CREDIT)
    digits = load_digits(as_frame=True).frame.assign(target=lambda frame: "digit " + frame["target"].astype(str))
    tumours = load_breast_cancer(as_frame=True).frame.rename(columns=lambda name: name.replace(" ", "_"))
    for kind, frame in ((BoostedTrees, credit), (MLP, digits), (LogisticRegression, tumours)):
        mixed = frame.sample(frac=1.0, random_state=0).reset_index(drop=True)
        yield kind, mixed.iloc[: -len(mixed) * 3 // 10], mixed.iloc[-len(mixed) * 3 // 10 :]


def _arguments() -> argparse.Namespace:
    names = (*_ROWS, "checkpoints", "ray")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=lambda text: text.split(","), default=list(names), help=f"which: {', '.join(names)} (all)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of what is timed, after a warm-up (3)")
    given = parser.parse_args()
    unknown = set(given.rows) - set(names)
    if unknown:
        parser.error(f"unknown rows {', '.join(sorted(unknown))}: expected {', '.join(names)}")
    return given


if __name__ == "__main__":
    main()
