"""A worker that serves the credit and price models, beside a data service: all real, over TLS."""

import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lepton.v1 import data_pb2
from lepton.v1 import prediction_pb2 as pb
from lepton.v1.prediction_pb2_grpc import PredictionServiceStub
from servicekit.rpc.channel import ServiceChannel
from tests.inference.house import House, Worker
from tests.inference.predict.models import credit_model, credit_signature, price_model, price_signature
from tests.support.credentials import bearer, public_channel
from tests.training.house import House as DataHouse


@dataclass
class Bureau:
    """What a test asks.

    Args:
        house: the registry, deployments and the scheduler.
        data: the data service.
        worker: serves credit@1 and prices@1.
        stub: the prediction service, in servicekit's errors, without a token.
    """

    house: House
    data: DataHouse
    worker: Worker
    stub: Any

    def who(self, role: str = "developer", workspace: str = "default") -> tuple[tuple[str, str], ...]:
        """Return the metadata of somebody."""
        return bearer(self.house.make_token(role, workspace))

    async def predict(self, deployment: str, *rows: pb.Row, role: str = "viewer", **more: Any) -> pb.PredictResponse:
        """Predict for some rows."""
        request = pb.PredictRequest(deployment=deployment, rows=rows, **more)
        answer: pb.PredictResponse = await self.stub.Predict(request, metadata=self.who(role), timeout=120.0)
        return answer

    def score(self, dataset: str, deployment: str = "credit", role: str = "developer", **more: Any) -> Any:
        """Stream a scoring."""
        fields = {"output": "scored", **more}
        request = pb.ScoreDatasetRequest(dataset=dataset, deployment=deployment, **fields)
        return self.stub.ScoreDataset(request, metadata=self.who(role), timeout=240.0)

    async def scored(self, dataset: str, deployment: str = "credit", **more: Any) -> data_pb2.DatasetVersion:
        """Score a dataset; return the new version."""
        steps = [step async for step in self.score(dataset, deployment, **more)]
        version: data_pb2.DatasetVersion = steps[-1].dataset
        return version

    async def read(self, ref: str) -> pa.Table:
        """Return a dataset version's rows."""
        request = data_pb2.ReadDatasetRequest(ref=ref)
        chunks = [answer.arrow async for answer in self.data.data.ReadDataset(request, metadata=self.who())]
        with pa.ipc.open_stream(io.BytesIO(b"".join(chunks))) as reader:
            return reader.read_all()

    async def deploy(self, name: str, files: Mapping[str, bytes], **fields: Any) -> None:
        """Register a version of some files, and deploy it."""
        version = await self.house.developer.register(name, files, **fields)
        await self.house.deployments.create(f"{name}@{version.number}")
        await self.house.deployments.until(name, version.number)

    async def datasets(self) -> list[str]:
        """Return the names of all datasets."""
        answer = await self.data.data.ListDatasets(data_pb2.ListDatasetsRequest(), metadata=self.who())
        return [dataset.name for dataset in answer.datasets]


@contextlib.asynccontextmanager
async def running_bureau(house: House) -> AsyncIterator[Bureau]:
    """Run a data service and a worker, and deploy both models."""
    async with (
        contextlib.AsyncExitStack() as stack,
        _running_data(house, stack) as data,
        house.worker("w1", data_address=f"localhost:{data.data_port}") as worker,
        ServiceChannel(public_channel(worker.server.port, house.credentials)) as channel,
    ):
        bureau = Bureau(house, data, worker, PredictionServiceStub(channel))
        await bureau.deploy("credit", {"model.onnx": credit_model()}, signature=credit_signature())
        await bureau.deploy("prices", {"model.onnx": price_model()}, signature=price_signature())
        yield bureau


@contextlib.asynccontextmanager
async def _running_data(house: House, stack: contextlib.AsyncExitStack) -> AsyncIterator[DataHouse]:
    """Run a data service that a test may stop: whatever it is made of lies on the stack."""
    data = DataHouse(house.credentials, house.folder, house.nats, house.make_token, stack)
    await data.start_data()
    yield data
