"""The protocol's RPCs over a real server with TLS and tokens: status codes, versions, workspaces."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.replies import to_raw
from services.inference.serving.table import Entry, ServingTable
from tests.inference.fronts import LANES, Served, serving
from tests.inference.models import columns, failing, identity
from tests.support.credentials import MakeToken, bearer


def echo() -> pb.ModelInferRequest:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    request = pb.ModelInferRequest(raw_input_contents=[to_raw("FP32", array)], id="an id")
    request.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    return request


@pytest.fixture(params=LANES)
async def served(request: pytest.FixtureRequest, platform_files: Path, make_token: MakeToken) -> AsyncIterator[Served]:
    table = ServingTable()
    first, second = identity("FP32"), identity("FP32")
    second.number, second.version, second.epoch = 2, "2", 5
    table.set("default", "echo", Entry({1: first, 2: second}, {3: ""}, {"champion": 1}))
    table.set("default", "failing", Entry({1: failing()}))
    table.set("default", "loading", Entry({}, {1: ""}))
    table.set("other", "columns", Entry({1: columns()}))
    async with serving(table, platform_files, bearer(make_token("viewer")), fast_lane=request.param) as running:
        yield running


async def _refused(call: object, code: grpc.StatusCode, text: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await call  # type: ignore[misc]
    assert refusal.value.code() is code
    assert text in (refusal.value.details() or "")


async def test_prediction_is_answered_exactly(served: Served) -> None:
    reply = await served.infer("echo", request=echo())
    assert (reply.model_name, reply.model_version, reply.id) == ("echo", "2", "an id")
    assert list(reply.raw_output_contents) == list(echo().raw_input_contents)


async def test_version_is_the_latest_placed_or_what_is_asked_for(served: Served) -> None:
    assert [(await served.infer("echo", version)).model_version for version in ("", "1", "2", "champion")] == [
        *("2", "1", "2", "1")
    ]


async def test_prediction_has_an_id_and_tells_its_provider(served: Served) -> None:
    call = served.stub.ModelInfer(_named("echo"), metadata=served.metadata)
    await call
    trailers = dict(await call.trailing_metadata())
    assert len(str(trailers["lepton-prediction-id"])) == 32
    assert trailers["lepton-provider"] in ("CPUExecutionProvider", "CUDAExecutionProvider")


def _named(name: str) -> pb.ModelInferRequest:
    request = echo()
    request.model_name = name
    return request


async def test_status_codes_are_the_protocols(served: Served) -> None:
    unknown = "Request for unknown model: 'nope' is not found"
    await _refused(served.infer("nope"), grpc.StatusCode.NOT_FOUND, unknown)
    await _refused(served.infer("echo", "9"), grpc.StatusCode.NOT_FOUND, "'echo' version 9")
    await _refused(served.infer("loading"), grpc.StatusCode.UNAVAILABLE, "still loading")
    await _refused(served.infer("echo", "3"), grpc.StatusCode.UNAVAILABLE, "still loading")
    await _refused(served.infer("echo", request=pb.ModelInferRequest()), grpc.StatusCode.INVALID_ARGUMENT, "echo")
    await _refused(served.stub.ModelInfer(_named("echo")), grpc.StatusCode.UNAUTHENTICATED, "token")


async def test_input_that_the_model_refuses_is_the_callers_and_its_values_are_not_logged(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    request = pb.ModelInferRequest(raw_input_contents=[to_raw("INT64", np.array([717]))])
    request.inputs.add(name="x", datatype="INT64", shape=[1])
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await served.infer("failing", request=request)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    told = refusal.value.details() or ""
    assert "operator Gather: indices element out of data bounds, idx=717 must be within" in told
    assert ".cc" not in told
    assert (await served.infer("echo")).model_version == "2"
    logged = capfd.readouterr()
    assert "717" not in logged.out + logged.err


@pytest.mark.parametrize("version", ["01", "٢", "+2", " 2", "0", "2.0"])
async def test_version_is_a_number_as_it_is_written_or_an_alias(served: Served, version: str) -> None:
    await _refused(served.infer("echo", version), grpc.StatusCode.NOT_FOUND, "version")


async def test_another_workspaces_models_are_not_there(served: Served, make_token: MakeToken) -> None:
    await _refused(served.infer("columns"), grpc.StatusCode.NOT_FOUND, "'columns'")
    index = await served.stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=served.metadata)
    assert {row.name for row in index.models} == {"echo", "failing", "loading"}
    other = bearer(make_token("viewer", "other"))
    metadata = await served.stub.ModelMetadata(pb.ModelMetadataRequest(name="columns"), metadata=other)
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        ("amount", "FP64", [-1, 1]),
        ("purpose", "BYTES", [-1, 1]),
    ]


async def test_readiness_is_never_an_error(served: Served) -> None:
    for name, version, ready in (("echo", "", True), ("echo", "9", False), ("nope", "", False), ("loading", "", False)):
        request = pb.ModelReadyRequest(name=name, version=version)
        assert (await served.stub.ModelReady(request, metadata=served.metadata)).ready is ready


async def test_server_is_asked_without_a_token(served: Served) -> None:
    assert (await served.stub.ServerLive(pb.ServerLiveRequest())).live
    assert not (await served.stub.ServerReady(pb.ServerReadyRequest())).ready
    served.servicer.is_ready = True
    assert (await served.stub.ServerReady(pb.ServerReadyRequest())).ready


async def test_index_tells_what_serves_and_what_waits(served: Served) -> None:
    served.table.set("default", "broken", Entry({}, {4: "no such file"}))
    index = await served.stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=served.metadata)
    rows = {(row.name, row.version): (row.state, row.reason) for row in index.models}
    assert rows["echo", "1"] == ("READY", "")
    assert rows["echo", "3"] == ("LOADING", "")
    assert rows["broken", "4"] == ("UNAVAILABLE", "no such file")
    ready = await served.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), metadata=served.metadata)
    assert {row.state for row in ready.models} == {"READY"}


async def test_load_needs_more_than_a_viewer_and_takes_no_files(served: Served, make_token: MakeToken) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="echo")
    viewer = served.stub.RepositoryModelLoad(request, metadata=served.metadata)
    await _refused(viewer, grpc.StatusCode.PERMISSION_DENIED, "role")
    request.parameters["file:1/model.onnx"].bytes_param = b"x"
    developer = bearer(make_token("developer"))
    await _refused(
        served.stub.RepositoryModelLoad(request, metadata=developer), grpc.StatusCode.INVALID_ARGUMENT, "registry"
    )


async def test_swap_under_load_fails_no_request(served: Served) -> None:
    import asyncio

    async def ask() -> set[str]:
        return {(await served.infer("echo")).model_version for _ in range(100)}

    async def swap() -> None:
        models = dict(served.table.get("default", "echo").models)
        for turn in range(60):
            number = turn % 2 + 1
            served.table.set("default", "echo", Entry({number: models[number]}))
            await asyncio.sleep(0.002)

    *answers, _ = await asyncio.gather(ask(), ask(), ask(), swap())
    assert set().union(*(answer for answer in answers if answer)) == {"1", "2"}
