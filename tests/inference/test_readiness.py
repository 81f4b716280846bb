"""READY is true on every worker of a port: one that does not hold a model passes requests on to one that does."""

import asyncio
import contextlib
import json
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from lepton.v1 import prediction_pb2
from lepton.v1.prediction_pb2_grpc import PredictionServiceStub
from servicekit.errors import NotFound, Unavailable
from servicekit.rpc import statuses
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.locating import Holder, Location, Locator
from tests.inference.fronts import LANES
from tests.inference.house import FAILED, PENDING, House, Worker, refused, until
from tests.inference.test_worker import _register
from tests.support.credentials import bearer

CHANNELS = 50
# Too few cores for any model: such a worker answers for the others alone.
_NOTHING = {"worker_cores": 0.001}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.asynccontextmanager
async def _two_workers(house: House, **more: object) -> AsyncIterator[int]:
    """Run two workers on one port, of which one has no room; yield the port."""
    port = _free_port()
    async with house.worker("w1", port=port, **more), house.worker("w2", port=port, **_NOTHING, **more):
        yield port


async def _asked_afresh(house: House, port: int, name: str, channels: int = CHANNELS) -> list[str]:
    """Ask over new connections, each of which any worker may take; return the versions that answered."""
    found = []
    for _ in range(channels):
        async with house.client(port) as client:
            found.append((await client.infer(name))[0])
    return found


async def _refusal_of_a_fresh_connection(house: House, port: int) -> tuple[grpc.StatusCode, str] | None:
    async with house.client(port) as client:
        try:
            await client.infer("m")
        except grpc.aio.AioRpcError as error:
            return error.code(), statuses.from_rpc_error(error).reason
    return None


@pytest.mark.parametrize("fast_lane", LANES)
async def test_every_connection_is_answered_from_the_moment_of_ready(house: House, fast_lane: bool) -> None:
    await _register(house, 0.5, 1.5)
    async with _two_workers(house, fast_lane=fast_lane) as port, house.client(port) as client:
        await refused(client.infer("m"), grpc.StatusCode.NOT_FOUND, "unknown model: 'm'")
        await house.deployments.create("m@1")
        # From the moment that it exists it is never unknown, on whichever connection.
        told: set[tuple[grpc.StatusCode, str]] = set()
        while (refusal := await _refusal_of_a_fresh_connection(house, port)) is not None:
            told.add(refusal)
        reasons = ("DEPLOYMENT_LOADING", "MODEL_LOADING", "WORKER_NOT_READY")
        assert told <= {(grpc.StatusCode.UNAVAILABLE, reason) for reason in reasons}
        found = await house.deployments.until("m", 1, seconds=60.0)
        assert set(await _asked_afresh(house, port, "m")) == {"1"}
        assert found.HasField("serve_time") or (await house.deployments.get("m")).HasField("serve_time")
        await house.deployments.update("m", "version", version="m@2")
        await house.deployments.until("m", 2, seconds=60.0)
        assert set(await _asked_afresh(house, port, "m")) == {"2"}
        await refused(client.infer("m", "7"), grpc.StatusCode.NOT_FOUND, "version 7")
        await house.deployments.delete("m")
        await until(lambda: _is_unknown_everywhere(house, port), "the deployment to be unknown", 60.0)


async def _is_unknown_everywhere(house: House, port: int) -> bool:
    try:
        await _asked_afresh(house, port, "m", 1)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


async def test_every_way_to_ask_is_answered_by_the_worker_that_has_no_room(house: House) -> None:
    await _register(house, 0.5)
    rest = _free_port()
    async with house.worker("w1") as full, house.worker("w2", rest_port=rest, **_NOTHING) as empty:
        developer = bearer(house.make_token("developer"))
        await empty.stub.RepositoryModelLoad(
            pb.RepositoryModelLoadRequest(model_name="m"), metadata=developer, timeout=60.0
        )
        assert await empty.infer("m") == ("1", 2.5)
        assert (await empty.stub.ModelReady(pb.ModelReadyRequest(name="m"), metadata=empty.metadata)).ready
        metadata = await empty.stub.ModelMetadata(pb.ModelMetadataRequest(name="m"), metadata=empty.metadata)
        assert metadata.inputs[0].name == "x"
        config = await empty.stub.ModelConfig(pb.ModelConfigRequest(name="m"), metadata=empty.metadata)
        assert config.config.name == "m"
        statistics = await empty.stub.ModelStatistics(pb.ModelStatisticsRequest(name="m"), metadata=empty.metadata)
        assert statistics.model_stats[0].name == "m"
        index = await empty.stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=empty.metadata)
        assert [(item.name, item.state) for item in index.models] == [("m", "READY")]
        # By the holder's own words: the model takes a vector, and no column of numbers.
        assert await _ask_for_rows(house, empty, "m") == await _ask_for_rows(house, full, "m")
        assert (await _ask_for_rows(house, empty, "nobody")).startswith("NOT_FOUND")
        assert await _ask_over_rest(house, empty, rest, "m") == (200, [2.5])
        assert (await _ask_over_rest(house, empty, rest, "nobody"))[0] == 404
        unknown = pb.ModelReadyRequest(name="nobody")
        assert not (await empty.stub.ModelReady(unknown, metadata=empty.metadata)).ready
        await refused(
            empty.stub.ModelStatistics(pb.ModelStatisticsRequest(name="nobody"), metadata=empty.metadata),
            grpc.StatusCode.NOT_FOUND,
        )


async def _ask_for_rows(house: House, worker: Worker, name: str) -> str:
    """Return how a typed prediction ends: the version that answered, or the error."""
    authority = grpc.ssl_channel_credentials((house.credentials / "ca.pem").read_bytes())
    row = prediction_pb2.Row(values={"x": prediction_pb2.Value(number=1.0)})
    async with grpc.aio.secure_channel(f"localhost:{worker.server.port}", authority) as channel:
        request = prediction_pb2.PredictRequest(deployment=name, rows=[row])
        stub: Any = PredictionServiceStub(channel)
        try:
            return str((await stub.Predict(request, metadata=worker.metadata)).version_number)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"


async def _ask_over_rest(house: House, worker: Worker, port: int, name: str) -> tuple[int, list[float]]:
    """Return the status of a prediction over REST, and its numbers, or when to try again, seconds."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 1.0]}]}
    url = f"https://localhost:{port}/v2/models/{name}/infer"
    request = urllib.request.Request(url, json.dumps(body).encode(), dict(worker.metadata))
    trusted = ssl.create_default_context(cafile=str(house.credentials / "ca.pem"))

    def ask() -> tuple[int, list[float]]:
        try:
            with urllib.request.urlopen(request, context=trusted) as answer:
                return answer.status, json.loads(answer.read())["outputs"][0]["data"]
        except urllib.error.HTTPError as error:
            return error.code, [float(error.headers["retry-after"])] if "retry-after" in error.headers else []

    return await asyncio.to_thread(ask)


async def test_what_has_no_room_says_what_is_missing(registry_house: House) -> None:
    house, port = registry_house, _free_port()
    await house.start_deployments(scheduler_address=f"localhost:{port}")
    await house.start_scheduler(private_port=port)
    await _register(house, 0.5)
    rest = _free_port()
    async with house.worker("w1", worker_cores=1.0, rest_port=rest) as worker:
        await house.deployments.create("m@1", "big", resources={"cores": 3.0, "memory_bytes": 1 << 20})
        await until(lambda: _has_reason(house, "big", "TOO_LARGE"), "the reason to be told", 60.0)
        await house.deployments.create("m@1", "first", resources={"cores": 0.8})
        await house.deployments.until("first", 1, seconds=60.0)
        await house.deployments.create("m@1", "m", resources={"cores": 0.5})
        await until(lambda: _has_reason(house, "m", "NO_ROOM"), "the reason to be told", 60.0)
        found = await house.deployments.get("m")
        assert found.state == PENDING
        assert "lacks 0.3 of 0.5 cores" in found.message
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await worker.infer("m")
        error = statuses.from_rpc_error(refusal.value)
        assert isinstance(error, Unavailable)
        assert (error.reason, error.retry_seconds) == ("NO_ROOM", 10.0)
        assert "lacks 0.3 of 0.5 cores" in error.message
        assert await _ask_over_rest(house, worker, rest, "m") == (503, [10.0])
        await _refuse_to_load(house, worker, "m")
        # Room is found, and the reason goes.
        await house.deployments.delete("first")
        found = await house.deployments.until("m", 1, seconds=60.0)
        assert found.waiting_reason == ""


async def _refuse_to_load(house: House, worker: Worker, name: str) -> None:
    """A load does not wait for room that is not there."""
    request = pb.RepositoryModelLoadRequest(model_name=name)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await worker.stub.RepositoryModelLoad(request, metadata=bearer(house.make_token("developer")), timeout=60.0)
    assert statuses.from_rpc_error(refusal.value).reason == "NO_ROOM"


async def _has_reason(house: House, name: str, reason: str) -> bool:
    return (await house.deployments.get(name)).waiting_reason == reason


async def test_what_cannot_be_loaded_says_so_from_any_worker(house: House) -> None:
    await _register(house, 0.5)
    async with house.worker("w1"), house.worker("w2", **_NOTHING) as empty:
        # Its bytes are gone: it can never be loaded.
        for path in (house.folder / "objects").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        await house.deployments.create("m@1")
        await house.deployments.until("m", 1, FAILED, seconds=60.0)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await empty.infer("m")
        error = statuses.from_rpc_error(refusal.value)
        assert (error.status, error.reason) == ("UNAVAILABLE", "DEPLOYMENT_FAILED")
        assert "missing or damaged" in error.message


async def test_with_nats_away_requests_are_passed_on_all_the_same(house: House) -> None:
    await _register(house, 0.5)
    async with house.worker("w1") as full, house.worker("w2", **_NOTHING) as empty:
        await house.deployments.create("m@1")
        await house.deployments.until("m", 1, seconds=60.0)
        house.nats.kill()
        # Beyond the time that reports last.
        for _ in range(7):
            await asyncio.sleep(1.0)
            assert (await full.infer("m"))[0] == (await empty.infer("m"))[0] == "1"
        await refused(empty.infer("nobody"), grpc.StatusCode.NOT_FOUND)
        house.nats.start()


async def test_with_the_inference_service_away_models_are_served_and_nothing_is_called_unknown(house: House) -> None:
    await _register(house, 0.5)
    await house.deployments.create("m@1")
    async with house.worker("w1", inference_address="localhost:1") as worker:
        await house.deployments.until("m", 1, seconds=60.0)
        assert await worker.infer("m") == ("1", 2.5)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await worker.infer("nobody")
        error = statuses.from_rpc_error(refusal.value)
        assert isinstance(error, Unavailable)
        assert (error.reason, error.retry_seconds) == ("DIRECTORY_AWAY", 1.0)


async def test_lookups_are_shared_and_one_that_began_before_a_request_is_not_joined() -> None:
    began, exists, turn = 0, False, asyncio.Event()

    async def ask(workspace: str, deployment: str, version: str) -> Location:
        nonlocal began
        began += 1
        found = exists
        await turn.wait()
        if not found:
            raise NotFound("no deployment")
        return Location((Holder("here:1", 0),))

    async with Locator(ask) as locator:
        first = asyncio.create_task(locator.locate("default", "m", ""))
        while not began:
            await asyncio.sleep(0)
        exists = True
        later = [asyncio.create_task(locator.locate("default", "m", "")) for _ in range(20)]
        turn.set()
        with pytest.raises(NotFound):
            await first
        assert {await found for found in later} == {Location((Holder("here:1", 0),))}
        assert began == 2


async def test_an_inference_service_that_is_away_makes_nothing_unknown() -> None:
    async def ask(workspace: str, deployment: str, version: str) -> Location:
        raise Unavailable("away")

    async with Locator(ask) as locator:
        with pytest.raises(Unavailable):
            await locator.locate("default", "m", "")
