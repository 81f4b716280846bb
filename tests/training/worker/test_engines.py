"""What needs several workers, and where there are none."""

from tests.training.house import FAILED, House, refused


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
