"""Replicas that get a better plan while they serve: worker, deployments, data, registry and scheduler, all real."""

import asyncio
import contextlib
import hashlib
import io
import subprocess
import sys
from collections.abc import AsyncIterator

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lepton.v1 import data_pb2
from lepton.v1 import inference_pb2 as deployments_pb
from lepton.v1.data_pb2_grpc import DataServiceStub, add_DataServiceServicer_to_server
from servicekit.auth import Identity, act_as
from servicekit.database import open_database
from servicekit.objects import Objects
from servicekit.rpc import open_channel
from servicekit.server import Servicer, running_server
from servicekit.state import State
from services.data.adapters import tables as data_tables
from services.data.adapters.repository import SqlRepository as DataRepository
from services.data.adapters.table_store import ObjectTableStore
from services.data.domain.datasets import Datasets
from services.data.domain.work import Work
from services.data.servicer import DataServicer
from services.data.settings import DataSettings
from services.inference.adapters.deployments_client import DeploymentsClient
from services.inference.domain.tuning import Tuning
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.plans import child
from tests.inference.house import House, Worker, refused, until
from tests.inference.plans.graphs import WIDE, Array, labelled, layers
from tests.registry.house import NoUsers
from tests.support import onnx_models
from tests.support.credentials import bearer, public_channel

WITHIN_LOSS = deployments_pb.TUNING_MODE_WITHIN_LOSS
LOSSLESS = deployments_pb.TUNING_MODE_LOSSLESS
OFF = deployments_pb.TUNING_MODE_OFF


class Data:
    """A data service, and a developer who imports into it.

    Args:
        house: around it.
        port: its private one.
        stub: its public side.
    """

    def __init__(self, house: House, port: int, stub: DataServiceStub) -> None:
        self._house = house
        self.port = port
        self._stub = stub

    async def add(self, name: str, x: Array, labels: Array) -> str:
        """Import rows, one column a value; return the version's reference."""
        table = pa.table({f"x_{place}": values for place, values in enumerate(x.T)} | {"label": labels})
        sink = io.BytesIO()
        pq.write_table(table, sink)
        content = sink.getvalue()

        async def messages() -> AsyncIterator[data_pb2.ImportDatasetRequest]:
            header = data_pb2.ImportHeader(dataset=name, format=data_pb2.FILE_FORMAT_PARQUET, label="label")
            yield data_pb2.ImportDatasetRequest(header=header)
            yield data_pb2.ImportDatasetRequest(chunk=content)
            yield data_pb2.ImportDatasetRequest(end=data_pb2.ImportEnd(sha256=hashlib.sha256(content).hexdigest()))

        call = self._stub.ImportDataset(messages(), metadata=bearer(self._house.make_token()))  # type: ignore[arg-type]
        answer: data_pb2.ImportDatasetResponse = await call  # type: ignore[misc]  # the stub of grpc.aio
        return f"{answer.version.dataset}@{answer.version.number}"


@pytest.fixture
async def data(house: House) -> Data:
    """A running data service."""
    environment = house.environment(
        "data", database_url=house.database("data"), objects_url=(house.folder / "objects").as_uri()
    )
    settings = DataSettings.model_validate(environment)
    database = await house.stack.enter_async_context(open_database(settings.database_url, "services.data.migrations"))
    state = State(database, data_tables.kit, DataRepository)
    store = ObjectTableStore(Objects.open(settings, "data"), settings.max_upload_bytes, Work(1))
    servicer = DataServicer(Datasets(store, state.reading), state, settings.max_message_bytes, NoUsers())
    service = Servicer("lepton.v1.DataService", lambda server: add_DataServiceServicer_to_server(servicer, server))
    server = await house.stack.enter_async_context(running_server(settings, [service]))
    channel = await house.stack.enter_async_context(public_channel(server.port, house.credentials))
    return Data(house, server.private_port, DataServiceStub(channel))


def _worker(house: House, data: Data) -> contextlib.AbstractAsyncContextManager[Worker]:
    return house.worker(data_address=f"localhost:{data.port}", tuning_seconds=120.0)


async def _ask(worker: Worker, x: Array) -> list[float]:
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    request.raw_input_contents.append(x.tobytes())
    reply = await worker.stub.ModelInfer(request, metadata=worker.metadata, timeout=120.0)
    return [float(value) for value in np.frombuffer(reply.raw_output_contents[0], np.float32)]


async def _plan(house: House, name: str = "m", seconds: float = 120.0) -> deployments_pb.Plan:
    """Wait for a deployment's plan."""
    async with asyncio.timeout(seconds):
        while True:
            found = await house.deployments.get(name)
            if found.plans:
                return found.plans[0]
            await asyncio.sleep(0.05)


async def _swapped(worker: Worker, row: Array, plain: list[float]) -> None:
    async def differs() -> bool:
        return await _ask(worker, row) != plain

    await until(differs, "the chosen plan to answer")


async def test_plan_is_measured_while_requests_are_answered_swapped_in_and_reused_at_restart(
    house: House, data: Data
) -> None:
    graph = layers(width=WIDE)
    x, labels = labelled(graph, 300)
    ref = await data.add("rows", x, labels)
    await house.developer.register("m", {"model.onnx": graph})
    row = x[:1]
    async with _worker(house, data) as worker:
        tuning = deployments_pb.Tuning(mode=WITHIN_LOSS, dataset=ref)
        await house.deployments.create("m@1", tuning=tuning)
        # Ready with the plain plan: nobody waits for measuring.
        ready = await house.deployments.until("m", 1)
        assert not ready.plans
        plain = await _ask(worker, row)
        answers = []
        stopped = asyncio.Event()

        async def ask_on() -> None:
            while not stopped.is_set():
                answers.append(await _ask(worker, row))
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask_on())
            plan = await _plan(house)
            assert plan.precision == "int8", plan
            await _swapped(worker, row, plain)
            stopped.set()
        # Each answer is the one plan's or the other's, and none failed.
        assert {tuple(answer) for answer in answers} <= {tuple(plain), tuple(await _ask(worker, row))}
        assert (plan.quality.dataset, plan.tuning.dataset) == (ref, ref)
        assert plan.quality.loss_points <= 0.5
        assert plan.batch_rows
        chosen = await _ask(worker, row)
    async with _worker(house, data) as worker:
        await until(lambda: _answers(worker, row), "the worker to serve")
        await _swapped(worker, row, plain)
        assert await _ask(worker, row) == chosen
    # It was built again, and not measured: another measurement would have taken the place of this one.
    again = await house.deployments.get("m")
    assert list(again.plans) == [plan]


async def _answers(worker: Worker, row: Array) -> bool:
    try:
        await _ask(worker, row)
    except grpc.aio.AioRpcError:
        return False
    return True


@pytest.mark.slow
async def test_wish_that_changes_is_followed(house: House, data: Data) -> None:
    graph = layers(width=WIDE)
    x, labels = labelled(graph, 300)
    ref = await data.add("rows", x, labels)
    await house.developer.register("m", {"model.onnx": graph})
    async with _worker(house, data) as worker:
        await house.deployments.create("m@1", tuning=deployments_pb.Tuning(mode=OFF))
        await house.deployments.until("m", 1)
        plain = await _ask(worker, x[:1])
        tuning = deployments_pb.Tuning(mode=WITHIN_LOSS, dataset=ref)
        await house.deployments.update("m", "tuning", tuning=tuning)
        assert (await _plan(house)).precision == "int8"
        await _swapped(worker, x[:1], plain)
        await house.deployments.update("m", "tuning", tuning=deployments_pb.Tuning(mode=OFF))

        async def is_plain() -> bool:
            return await _ask(worker, x[:1]) == plain

        await until(is_plain, "the plain plan to be back")


async def test_without_evaluation_data_nothing_lossy_is_tried_and_the_plan_says_so(house: House, data: Data) -> None:
    await house.developer.register("m", {"model.onnx": layers(width=WIDE)})
    async with _worker(house, data):
        await house.deployments.create("m@1")
        plan = await _plan(house)
    assert plan.name == "plain"
    assert "was not evaluated on any dataset" in plan.message
    assert {item.name: item.outcome for item in plan.candidates}["int8_dynamic"].startswith("not tried")


async def test_tiny_model_is_not_measured(house: House, data: Data) -> None:
    await house.developer.register("m", {"model.onnx": onnx_models.linear_model((1.0, 1.0))})
    async with _worker(house, data):
        await house.deployments.create("m@1")
        plan = await _plan(house)
    assert (plan.name, len(plan.candidates)) == ("plain", 0)
    assert "nothing to win" in plan.message


async def test_child_that_fails_leaves_the_plain_plan_serving_with_a_message(
    house: House, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_COMMAND", (sys.executable, "-c", "import sys; sys.exit(3)"))
    graph = layers(width=WIDE)
    x, _ = labelled(graph, 1)
    await house.developer.register("m", {"model.onnx": graph})
    async with _worker(house, data) as worker:
        await house.deployments.create("m@1")
        await house.deployments.until("m", 1)
        plain = await _ask(worker, x)
        plan = await _plan(house)
        assert (plan.name, len(plan.candidates)) == ("plain", 0)
        assert "ended its process with code 3" in plan.message
        assert await _ask(worker, x) == plain


async def test_plans_are_told_by_workers_alone_and_wishes_are_checked(house: House) -> None:
    await house.developer.register("m", {"model.onnx": onnx_models.linear_model()})
    made = await house.deployments.create(
        "m@1", tuning=deployments_pb.Tuning(mode=LOSSLESS, max_quality_loss_points=0.0)
    )
    assert (made.tuning.mode, made.tuning.HasField("max_quality_loss_points")) == (LOSSLESS, True)
    request = deployments_pb.RecordPlanRequest(
        deployment="m", plan=deployments_pb.Plan(name="plain", digest="d", hardware="h")
    )
    await refused(
        house.deployments.stub.RecordPlan(request, metadata=house.deployments.metadata),
        grpc.StatusCode.PERMISSION_DENIED,
    )
    await refused(
        house.deployments.update("m", "tuning", tuning=deployments_pb.Tuning(max_quality_loss_points=101.0)),
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    await refused(
        house.deployments.update("m", "tuning", tuning=deployments_pb.Tuning(mode=99)),  # type: ignore[arg-type]
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    changed = await house.deployments.update("m", "tuning", tuning=deployments_pb.Tuning())
    assert changed.tuning == deployments_pb.Tuning()


async def test_plan_is_kept_once_for_a_version_and_hardware_and_goes_with_its_deployment(house: House) -> None:
    await house.developer.register("m", {"model.onnx": onnx_models.linear_model()})
    await house.deployments.create("m@1")
    settings = house.process_settings("inference")
    async with open_channel(f"localhost:{house.server.private_port}", settings) as channel:
        workers = DeploymentsClient(channel)
        with act_as(Identity.for_service("default", "inference")):
            for number in range(20):
                plan = deployments_pb.Plan(name="plain", digest="d", hardware=f"machine {number}")
                await workers.record("m", plan)
            before = await house.deployments.get("m")
            # The same, told later, changes nothing; another choice takes its place.
            plan.create_time.GetCurrentTime()
            await workers.record("m", plan)
            assert (await house.deployments.get("m")).sequence == before.sequence
            plan.name = "fused"
            await workers.record("m", plan)
            kept = await workers.plans("m")
            assert [(found.name, found.hardware) for found in kept[:2]] == [
                ("fused", "machine 19"),
                ("plain", "machine 18"),
            ]
            assert len(kept) == 16
        with act_as(Identity.for_service("*", "inference")):
            assert await workers.wishes() == {("default", "m"): Tuning()}
    # Lists leave the tables of measurements out.
    listed = await house.deployments.stub.ListDeployments(
        deployments_pb.ListDeploymentsRequest(), metadata=house.deployments.metadata
    )
    assert not listed.deployments[0].plans
    await house.deployments.delete("m")
    await house.deployments.create("m@1")
    assert not (await house.deployments.get("m")).plans


def test_worker_loads_none_of_the_libraries_that_measuring_needs() -> None:
    heavy = ["onnx", "sympy", "scipy", "torch", "onnxruntime.quantization", "onnxruntime.transformers"]
    code = f"import sys, services.inference.worker; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


async def test_graph_whose_weights_lie_in_other_files_keeps_the_plain_plan_and_says_why(
    house: House, data: Data
) -> None:
    graph = layers(width=WIDE)
    model, weights = onnx.ModelProto.FromString(graph), b""
    for tensor in model.graph.initializer:
        content = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "w.data"), ("offset", str(len(weights))), ("length", str(len(content)))):
            tensor.external_data.add(key=key, value=value)
        weights += content
    await house.developer.register("m", {"model.onnx": model.SerializeToString(), "w.data": weights})
    x, _ = labelled(graph, 1)
    async with _worker(house, data) as worker:
        await house.deployments.create("m@1", tuning=deployments_pb.Tuning(mode=LOSSLESS))
        await house.deployments.until("m", 1, seconds=60.0)
        found = await _ask(worker, x)
        plan = await _plan(house)
        assert (plan.name, "other files" in plan.message) == ("plain", True), plan.message
        assert await _ask(worker, x) == found
    (name,) = (item.name for item in model.graph.output)
    expected = ort.InferenceSession(graph).run([name], {"x": x})[0]
    np.testing.assert_allclose(found, expected.reshape(-1), rtol=1e-5)
