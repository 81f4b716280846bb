"""Tables larger than the memory that a job declares."""

import asyncio
import contextlib
import io
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lepton.v1 import training_pb2
from servicekit.worker import own_memory_bytes
from services.training.worker.jobs import JobRunner
from services.training.worker.run import Limits
from tests.training.house import EVALUATE, SUCCEEDED, House, is_running, until


def wide_table(rows: int, columns: int = 8, seed: int = 0) -> pa.Table:
    """Return numbers, a category, and y: a class of all of them."""
    draw = np.random.default_rng(seed)
    town = draw.integers(0, 3, rows)
    total = np.where(town == 0, 1.0, 0.0) + 0.3 * draw.standard_normal(rows)
    table = {"town": pa.array(np.array(["Bern", "Genf", "Chur"])).take(pa.array(town))}
    for place in range(columns):
        values = draw.standard_normal(rows)
        total += values * (place % 3 - 1)
        table[f"x{place}"] = pa.array(values)
    return pa.table({**table, "y": pa.array(["no", "yes"]).take(pa.array((total > 0).astype(int)))})


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


async def test_table_larger_than_its_share_of_memory_streams(busy_house: House) -> None:
    table = wide_table(60_000)
    rows = await busy_house.import_parquet("wide", parquet(table), "y")
    resources = {"cores": 1.0, "memory_bytes": table.nbytes // 10}
    settings = {"n_estimators": "20"}
    async with busy_house.worker():
        job = await busy_house.people.create(
            family="boosted_trees", dataset=rows, hyperparameters=settings, resources=resources
        )
        done = await busy_house.people.ended(job.name)
        assert done.state == SUCCEEDED, done
        assert any("as many as fit into the memory declared" in warning for warning in done.warnings), done.warnings
        held_whole = await busy_house.people.create(
            family="boosted_trees", model="held", dataset=rows, hyperparameters=settings
        )
        whole = await busy_house.people.ended(held_whole.name)
        evaluate: dict[str, Any] = {"kind": EVALUATE, "family": "", "base_version": done.version, "dataset": rows}
        judged = await busy_house.people.ended(
            (await busy_house.people.create(**evaluate, resources=resources)).name, 60
        )
    assert abs(_metric(done, "roc_auc") - _metric(whole, "roc_auc")) < 0.02
    # Of a table that is too large a draw judges, and it is said of how many rows.
    assert judged.state == SUCCEEDED, judged
    assert 0 < judged.evaluation.rows < table.num_rows


@pytest.mark.slow
async def test_network_that_streams_and_is_killed_ends_as_one_that_never_was(
    busy_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = await busy_house.import_parquet("wide", parquet(wide_table(3000)), "y")
    wanted: dict[str, Any] = {
        "family": "mlp",
        "dataset": rows,
        "hyperparameters": {"epochs": "3", "batch_size": "24", "hidden_units": "16"},
        "resources": {"cores": 1.0, "memory_bytes": 1 << 20},
    }
    async with busy_house.worker(checkpoint_seconds=0.1) as runner:
        whole = await busy_house.people.ended((await busy_house.people.create(model="whole", **wanted)).name)
        job = await busy_house.people.create(model="cut", **wanted)
        await busy_house.people.until(job.name, lambda found: found.progress > 0.3 and found.HasField("checkpoint"))
        (pid,) = runner.holding().processes
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not is_running(pid), "the child to end")
        done = await busy_house.people.ended(job.name)
    assert (whole.state, done.state) == (SUCCEEDED, SUCCEEDED), done
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    said = [line["event"] for line in logged if line.get("job") == job.name]
    assert {"streaming", "going on from its checkpoint"} <= set(said)
    assert await _digests(busy_house, done.version) == await _digests(busy_house, whole.version)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("linear_regression", {}),
        ("logistic_regression", {"max_iterations": "3"}),
        ("boosted_trees", {"n_estimators": "10"}),
        ("mlp", {"epochs": "1", "batch_size": "4096"}),
    ],
)
async def test_table_of_ten_times_the_memory_trains_within_it(
    busy_house: House, family: str, settings: dict[str, str]
) -> None:
    table = wide_table(7_000_000)
    target = "y"
    if family == "linear_regression":
        table, target = table.drop_columns(["y"]), "x7"
    resources = {"cores": 1.0, "memory_bytes": table.nbytes // 10}
    assert resources["memory_bytes"] > 48 << 20
    rows = await busy_house.import_parquet("wide", parquet(table), target)
    del table
    async with busy_house.worker() as runner, _peak_of_children(runner) as peak:
        job = await busy_house.people.create(family=family, dataset=rows, hyperparameters=settings, resources=resources)
        done = await busy_house.people.ended(job.name, 1500)
    assert done.state == SUCCEEDED, done
    print(f"{family}: {max(peak) >> 20} MiB at most, of {int(resources['memory_bytes']) >> 20} declared")
    assert max(peak) < resources["memory_bytes"] + Limits().library_bytes


@contextlib.asynccontextmanager
async def _peak_of_children(runner: JobRunner) -> AsyncIterator[list[int]]:
    """Measure the memory of the jobs' processes twenty times a second."""
    found: list[int] = []

    async def watch() -> None:
        while True:
            for pid in runner.holding().processes:
                with contextlib.suppress(psutil.Error):
                    found.append(own_memory_bytes(psutil.Process(pid)))
            await asyncio.sleep(0.05)

    watching = asyncio.create_task(watch())
    try:
        yield found
    finally:
        watching.cancel()


async def _digests(house: House, version: str) -> dict[str, str]:
    return {artifact.name: artifact.sha256 for artifact in (await house.developer.get(version)).artifacts}


def _metric(job: training_pb2.Job, name: str) -> float:
    return next(metric.value for metric in job.evaluation.metrics if metric.name == name)
