"""A worker without the model passes predictions and scorings on to one that has it."""

import contextlib

import pytest

from lepton.v1.prediction_pb2_grpc import PredictionServiceStub
from servicekit.errors import InvalidArgument, NotFound, Unavailable
from servicekit.rpc.channel import ServiceChannel
from tests.inference.house import until
from tests.inference.predict.bureau import Bureau
from tests.inference.predict.models import row
from tests.support.credentials import public_channel


async def test_worker_without_the_model_passes_on_what_it_is_asked(bureau: Bureau) -> None:
    source = await bureau.data.import_table("flats", {"size": list(range(5000))})
    # Too small for any replica.
    async with (
        bureau.house.worker("w2", worker_cores=0.001) as small,
        ServiceChannel(public_channel(small.server.port, bureau.house.credentials)) as channel,
    ):
        bureau.stub = PredictionServiceStub(channel)

        async def is_passed_on() -> bool:
            with contextlib.suppress(NotFound, Unavailable):
                return bool((await bureau.predict("prices", row(size=20))).prediction_id)
            return False

        await until(is_passed_on, "the worker to hear who has the model")
        (price,) = (await bureau.predict("prices", row(size=20))).predictions
        assert list(price.values) == [41.0]
        with pytest.raises(InvalidArgument, match="row 0, column 'size'"):
            await bureau.predict("prices", row(size="large"))
        with pytest.raises(NotFound):
            await bureau.predict("nothing", row(size=20))
        version = await bureau.scored(source, "prices")
        assert (version.rows, version.recipe.steps[0].score.model) == (5000, "prices@1")
        with pytest.raises(NotFound):
            await bureau.scored("nothing@1", "prices")
