"""Tables larger than the memory that a job declares."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lepton.v1 import training_pb2
from tests.training.house import EVALUATE, SUCCEEDED, House


def wide_table(rows: int, columns: int = 8, seed: int = 0) -> pa.Table:
    """Return numbers, a category, and y: a class of all of them."""
    draw = np.random.default_rng(seed)
    town = draw.choice(["Bern", "Genf", "Chur"], rows)
    total = np.where(town == "Bern", 1.0, 0.0)
    table = {"town": pa.array(town.tolist())}
    for place in range(columns):
        values = draw.standard_normal(rows)
        total = total + values * (place % 3 - 1)
        table[f"x{place}"] = pa.array(values)
    return pa.table({**table, "y": np.where(total + 0.3 * draw.standard_normal(rows) > 0, "yes", "no").tolist()})


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


async def test_table_larger_than_its_share_of_memory_streams(busy_house: House) -> None:
    table = wide_table(60_000)
    rows = await busy_house.import_parquet("wide", parquet(table), "y")
    resources = {"cores": 1.0, "memory_bytes": table.nbytes // 2}
    settings = {"n_estimators": "20"}
    async with busy_house.worker():
        job = await busy_house.people.create(
            family="boosted_trees", dataset=rows, hyperparameters=settings, resources=resources
        )
        done = await busy_house.people.ended(job.name, 60)
        assert done.state == SUCCEEDED, done
        messages = [update.message async for update in busy_house.people.watch(job.name)]
        assert "streaming: the table is larger than the memory declared" in messages
        held_whole = await busy_house.people.create(
            family="boosted_trees", model="held", dataset=rows, hyperparameters=settings
        )
        whole = await busy_house.people.ended(held_whole.name, 60)
        evaluate = {"kind": EVALUATE, "family": "", "base_version": done.version, "dataset": rows}
        judged = await busy_house.people.ended(
            (await busy_house.people.create(**evaluate, resources=resources)).name, 60
        )
    assert abs(_metric(done, "roc_auc") - _metric(whole, "roc_auc")) < 0.01
    # Of a table that is too large a draw judges, and it is said of how many rows.
    assert judged.state == SUCCEEDED, judged
    assert 0 < judged.evaluation.rows < table.num_rows


def _metric(job: training_pb2.Job, name: str) -> float:
    return next(metric.value for metric in job.evaluation.metrics if metric.name == name)
