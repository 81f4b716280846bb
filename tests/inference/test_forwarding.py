"""Requests for models of other workers: passed on once, with the caller's token and deadline, on either lane."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from lepton.v1 import scheduler_pb2
from servicekit.auth import Identity, Role
from servicekit.errors import NotFound, Unavailable
from servicekit.rpc import raw_channel
from servicekit.settings import ProcessSettings
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.forwarding import MARK, MODEL_INFER, Directory, Forwarder
from services.inference.serving.table import Entry, ServingTable
from tests.inference.fronts import LANES, Metadata, Served, ones, serving
from tests.inference.house import House, Worker, refused, until
from tests.inference.models import failing, identity
from tests.inference.test_limits import _count, counting
from tests.support.credentials import MakeToken, bearer, environment_of


def report(worker: str, port: int, *replicas: tuple[str, str, int], in_flight: int = 0) -> scheduler_pb2.WorkerReport:
    """Return what a worker says that serves some (workspace, deployment, number)."""
    told = scheduler_pb2.WorkerReport(
        worker=worker,
        kind=scheduler_pb2.WORKER_KIND_INFERENCE,
        address=f"localhost:{port}",
        load=scheduler_pb2.Load(in_flight=in_flight),
    )
    for workspace, deployment, number in replicas:
        told.replicas.add(
            workspace=workspace,
            deployment=deployment,
            number=number,
            state=scheduler_pb2.REPLICA_STATE_READY,
            aliases=["champion"],
        )
    return told


@dataclass
class Pair:
    """Two workers: `near` holds nothing, `far` the models; near knows so, and far believes that near holds `ghost`."""

    near: Served
    far: Served
    known: Directory


@contextlib.asynccontextmanager
async def _pair(credentials: Path, metadata: Metadata, *, fast_lane: bool) -> AsyncIterator[Pair]:
    table, echo = ServingTable(), identity("FP32")
    # Otherwise what the warm-up measured.
    echo.batch_rows = 48
    table.set("default", "echo", Entry({3: echo}, aliases={"champion": 3}))
    table.set("default", "failing", Entry({1: failing()}))
    table.set("default", "counting", Entry({1: counting()}))
    known, believed = Directory("near"), Directory("far")
    async with (
        serving(table, credentials, metadata, fast_lane=fast_lane, directory=believed) as far,
        serving(ServingTable(), credentials, metadata, fast_lane=fast_lane, directory=known) as near,
    ):
        held = [("default", name, number) for name, number in (("echo", 3), ("failing", 1), ("counting", 1))]
        await known.take(report("far", far.server.private_port, *held, ("default", "ghost", 1)))
        await believed.take(report("near", near.server.private_port, ("default", "ghost", 1)))
        yield Pair(near, far, known)


@pytest.fixture(params=LANES)
async def pair(request: pytest.FixtureRequest, platform_files: Path, make_token: MakeToken) -> AsyncIterator[Pair]:
    async with _pair(platform_files, bearer(make_token("viewer")), fast_lane=request.param) as running:
        yield running


async def test_request_is_answered_by_the_worker_that_holds_the_model(pair: Pair) -> None:
    call = pair.near.stub.ModelInfer(_named("echo"), metadata=pair.near.metadata)
    reply = await call
    assert list(reply.outputs[0].contents.fp32_contents) == [1.0] * 6
    trailers = dict(await call.trailing_metadata())
    assert trailers["lepton-provider"] == "CPUExecutionProvider"
    assert trailers["lepton-prediction-id"]

    async def is_counted() -> bool:
        return pair.far.batcher.served == 1

    # An answer is counted when it has left.
    await until(is_counted, "the answer to be counted")
    assert pair.near.batcher.served == 0
    assert (await pair.near.infer("echo", "3")).model_name == "echo"
    assert (await pair.near.infer("echo", "champion")).model_name == "echo"


async def test_what_nobody_holds_is_not_found_and_another_workspace_sees_nothing(
    pair: Pair, make_token: MakeToken
) -> None:
    await refused(pair.near.infer("nobody"), grpc.StatusCode.NOT_FOUND, "unknown model: 'nobody'")
    await refused(pair.near.infer("echo", "4"), grpc.StatusCode.NOT_FOUND)
    other = bearer(make_token("viewer", "other"))
    await refused(pair.near.stub.ModelInfer(_named("echo"), metadata=other), grpc.StatusCode.NOT_FOUND)


async def test_request_is_passed_on_once(pair: Pair) -> None:
    await refused(pair.near.infer("ghost"), grpc.StatusCode.UNAVAILABLE, "passed on already")


async def test_mark_of_a_client_counts_for_nothing(pair: Pair) -> None:
    marked = (*pair.near.metadata, (MARK, "1"))
    reply = await pair.near.stub.ModelInfer(_named("echo"), metadata=marked)
    assert reply.model_name == "echo"


async def test_holders_error_arrives_as_it_is(pair: Pair) -> None:
    far_off = pb.ModelInferRequest()
    far_off.inputs.add(name="x", datatype="INT64", shape=[1]).contents.int64_contents.append(99)
    await refused(pair.near.infer("failing", request=far_off), grpc.StatusCode.INVALID_ARGUMENT, "does not take")
    # Another model's input.
    await refused(pair.near.infer("echo", request=far_off), grpc.StatusCode.INVALID_ARGUMENT, "datatype FP32")


async def test_callers_deadline_goes_along(pair: Pair) -> None:
    long = pair.near.infer("counting", request=_count(1 << 40), timeout=0.3)
    await refused(long, grpc.StatusCode.DEADLINE_EXCEEDED)

    async def is_idle() -> bool:
        return not pair.far.table.find("default", "counting", "").in_flight

    await until(is_idle, "the run to end with its caller's deadline")


async def test_holder_that_is_gone_is_passed_over(pair: Pair) -> None:
    # Nobody listens there, and with less to do it is asked first.
    await pair.known.take(report("gone", 1, ("default", "echo", 3)))
    await pair.known.take(report("far", pair.far.server.private_port, ("default", "echo", 3), in_flight=5))
    for _ in range(3):
        assert (await pair.near.infer("echo")).model_name == "echo"


@contextlib.asynccontextmanager
async def _beside(
    credentials: Path, metadata: Metadata, *held: str
) -> AsyncIterator[tuple[Forwarder, list[str], Served]]:
    """Give a forwarder whose connections are counted, and the worker that it takes for the holder of some models."""
    table = ServingTable()
    table.set("default", "counting", Entry({1: counting()}))
    known, opened = Directory("near"), list[str]()
    settings = ProcessSettings.model_validate(environment_of(credentials, "inference"))

    def open_(address: str) -> grpc.aio.Channel:
        opened.append(address)
        return raw_channel(address, settings)

    async with serving(table, credentials, metadata) as far, Forwarder(known, open_) as forwarder:
        await known.take(report("far", far.server.private_port, *[("default", name, 1) for name in held]))
        yield forwarder, opened, far


async def _passed_on(forwarder: Forwarder, metadata: Metadata, request: pb.ModelInferRequest) -> bytes:
    token = metadata[0][1].removeprefix("Bearer ")
    forwarded = await forwarder.unary(
        MODEL_INFER,
        request.SerializeToString(),
        (request.model_name, ""),
        Identity("default", Role.VIEWER, "viewer@test", token=token),
        NotFound("not here", reason="MODEL_NOT_FOUND"),
        seconds=None,
        is_marked=False,
    )
    return forwarded.reply


async def test_connection_to_a_holder_that_answers_is_kept_whatever_it_says(
    platform_files: Path, make_token: MakeToken
) -> None:
    token = bearer(make_token("viewer"))
    async with _beside(platform_files, token, "counting", "ghost") as (forwarder, opened, _):
        for _ in range(3):
            with pytest.raises(Unavailable, match="passed on already"):
                await _passed_on(forwarder, token, _named("ghost"))
            # Calls that take long run on beside the refused ones: they would end with the connection.
            await _passed_on(forwarder, token, _count(1))
        assert len(opened) == 1


async def test_holder_that_ends_before_it_took_the_call_is_passed_over(
    platform_files: Path, make_token: MakeToken
) -> None:
    async def end(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.abort(grpc.StatusCode.CANCELLED)

    ending = grpc.aio.server()
    method: Any = grpc.unary_unary_rpc_method_handler(end)
    service, _, name = MODEL_INFER.strip("/").partition("/")
    ending.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: method}),))
    port = ending.add_insecure_port("localhost:0")
    await ending.start()
    token = bearer(make_token("viewer"))
    settings = ProcessSettings.model_validate(environment_of(platform_files, "inference"))
    table, known = ServingTable(), Directory("near")
    table.set("default", "counting", Entry({1: counting()}))

    def open_(address: str) -> grpc.aio.Channel:
        is_ending = address.endswith(f":{port}")
        return grpc.aio.insecure_channel(address) if is_ending else raw_channel(address, settings)

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(ending.stop, None)
        far = await stack.enter_async_context(serving(table, platform_files, token))
        forwarder = await stack.enter_async_context(Forwarder(known, open_))
        await known.take(report("ending", port, ("default", "counting", 1)))
        await known.take(report("far", far.server.private_port, ("default", "counting", 1), in_flight=5))
        assert await _passed_on(forwarder, token, _count(1))


async def test_call_whose_connection_is_let_go_is_refused_and_not_left_without_an_answer(
    platform_files: Path, make_token: MakeToken
) -> None:
    token = bearer(make_token("viewer"))
    async with _beside(platform_files, token, "counting") as (forwarder, _, far):
        asking = asyncio.ensure_future(_passed_on(forwarder, token, _count(1 << 40)))
        model = far.table.find("default", "counting", "")

        async def is_running() -> bool:
            return bool(model.in_flight)

        await until(is_running, "the run to begin")
        await forwarder.__aexit__()
        with pytest.raises(Unavailable, match="was lost"):
            await asking


async def test_questions_about_models_are_passed_on_too(pair: Pair) -> None:
    stub, metadata = pair.near.stub, pair.near.metadata
    assert (await stub.ModelReady(pb.ModelReadyRequest(name="echo"), metadata=metadata)).ready
    assert not (await stub.ModelReady(pb.ModelReadyRequest(name="ghost"), metadata=metadata)).ready
    found = await stub.ModelMetadata(pb.ModelMetadataRequest(name="echo"), metadata=metadata)
    assert list(found.versions) == ["3"]
    config = await stub.ModelConfig(pb.ModelConfigRequest(name="echo"), metadata=metadata)
    assert config.config.max_batch_size == 1_048_576
    assert list(config.config.dynamic_batching.preferred_batch_size) == [48]
    index = await stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=metadata)
    assert ("echo", "3", "READY") in {(row.name, row.version, row.state) for row in index.models}


async def test_with_one_replica_each_of_two_workers_answers(registered: House) -> None:
    await registered.start_scheduler(cover_workers=False)
    await registered.developer.register("m")
    async with registered.worker("w1") as first, registered.worker("w2") as second:
        await registered.deployments.create("m@1", name="d")
        found = await registered.deployments.until("d", 1)
        assert len(found.providers) == 1
        for worker in (first, second):
            # Who holds it is told within a second to those who do not.
            await until(partial(_answers, worker), "an answer")


async def _answers(worker: Worker) -> bool:
    try:
        return (await worker.infer("d"))[0] == "1"
    except grpc.aio.AioRpcError:
        return False


def _named(name: str) -> pb.ModelInferRequest:
    request = ones()
    request.model_name = name
    return request
