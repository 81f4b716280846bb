"""A deployment says whether its requests may share runs: it reaches the worker, is shown, and may be changed."""

import numpy as np
import pytest

from lepton.v1 import common_pb2
from servicekit.errors import InvalidArgument
from services.inference.convert import batching_from_proto
from services.inference.domain.deployments import Batching
from services.inference.open_inference import grpc_service_pb2 as pb
from tests.inference.house import House, Worker, until
from tests.inference.models import identity
from tests.inference.test_batcher import Asked


def test_batching_is_auto_where_nothing_is_said_and_unknown_values_are_refused() -> None:
    assert batching_from_proto(common_pb2.BATCHING_UNSPECIFIED) is Batching.AUTO
    assert batching_from_proto(common_pb2.BATCHING_OFF) is Batching.OFF
    with pytest.raises(InvalidArgument, match="BATCHING_OFF"):
        batching_from_proto(9)  # type: ignore[arg-type]


def test_each_request_runs_alone_while_batching_is_off() -> None:
    model, row = identity("FP32"), np.ones((1, 3), np.float32)
    for is_off, executions in ((True, 4), (False, 5), (True, 9)):
        model.turn_batching(off=is_off)
        asked = Asked()
        for _ in range(4):
            asked.ask(model, row)
        asked.finish()
        assert model.statistics.executions == executions
        assert all(work.arrays()[0].shape == (1, 3) for work in asked.works)


async def test_deployments_batching_reaches_its_worker_and_is_shown(house: House) -> None:
    await house.developer.register("m")
    async with house.worker() as worker:
        made = await house.deployments.create("m@1", batching=common_pb2.BATCHING_OFF)
        assert made.batching == common_pb2.BATCHING_OFF
        await house.deployments.until("m", 1)
        assert await _told(worker) == "not batched: the deployment has batching off"

        async def shows_why() -> bool:
            statistics = (await house.deployments.get("m")).statistics
            return [item.batching for item in statistics] == ["not batched: the deployment has batching off"]

        await until(shows_why, "the deployment to show that it is not batched", 60)
        await house.deployments.update("m", "batching", batching=common_pb2.BATCHING_AUTO)

        async def is_batched() -> bool:
            return await _told(worker) == "batched"

        await until(is_batched, "the worker to batch", 60)
        assert (await worker.infer("m"))[0] == "1"


async def _told(worker: Worker) -> str:
    answer = await worker.stub.ModelMetadata(pb.ModelMetadataRequest(name="m"), metadata=worker.metadata)
    return str(answer.properties["batching"])
