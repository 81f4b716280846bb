"""What needs several workers, and where there are none."""

from functools import partial
from typing import Any

import pytest

from tests.training.house import FAILED, FINE_TUNE, SUCCEEDED, House, refused

# As small as can be, as JSON.
VECTORS = {
    "task": '"embedding"',
    "epochs": "1",
    "pretraining_epochs": "0",
    "hidden_size": "8",
    "heads": "2",
    "layers": "1",
    "vocabulary": "100",
}


async def test_several_workers_are_refused_where_the_engine_is_embedded(busy_house: House) -> None:
    rows = await busy_house.import_line("line3")
    async with busy_house.worker():
        job = await busy_house.people.create(family="mlp", dataset=rows, workers=2)
        failed = await busy_house.people.ended(job.name)
    assert (failed.state, failed.error_reason) == (FAILED, "RAY_ENGINE_REQUIRED")
    assert "LEPTON_ENGINE=ray" in failed.error_message


async def test_several_workers_are_refused_for_what_is_no_network(house: House) -> None:
    error = await refused(house.people.create(family="boosted_trees", workers=2), "INVALID_ARGUMENT", "ONE_WORKER_ONLY")
    assert "mlp" in error.message
    await house.people.create(family="boosted_trees", workers=1)


async def test_several_workers_are_refused_for_embeddings(house: House) -> None:
    await house.import_table("pairs", {"text": ["a b", "c d"] * 20, "y": ["b a", "d c"] * 20}, "y")
    create = partial(house.people.create, dataset="pairs@1")
    for kind in ("JOB_KIND_FIT", "JOB_KIND_TUNE"):
        error = await refused(
            create(family="transformer", kind=kind, hyperparameters=VECTORS, workers=2),
            "INVALID_ARGUMENT",
            "ONE_WORKER_ONLY",
        )
        assert "leave workers out" in error.message
    await create(family="transformer", hyperparameters=VECTORS)
    # Pairs and classes are learned row by row.
    await create(family="transformer", workers=2)


# torch's exporter takes some seconds.
@pytest.mark.slow
async def test_several_workers_are_refused_for_a_fine_tune_of_embeddings(busy_house: House) -> None:
    pairs: dict[str, Any] = {
        "text": [f"good {place}" for place in range(20)],
        "y": [f"nice {place}" for place in range(20)],
    }
    await busy_house.import_table("pairs", pairs, "y")
    spec: dict[str, Any] = {"dataset": "pairs@1", "model": "vectors"}
    async with busy_house.worker():
        job = await busy_house.people.create(family="transformer", hyperparameters=VECTORS, **spec)
        done = await busy_house.people.ended(job.name)
    assert done.state == SUCCEEDED, done.error_message
    # Its task is the parent's: nobody has to say it again.
    fine_tune: dict[str, Any] = {"kind": FINE_TUNE, "family": "", "base_version": "vectors@1", "workers": 2, **spec}
    await refused(busy_house.people.create(**fine_tune), "INVALID_ARGUMENT", "ONE_WORKER_ONLY")
