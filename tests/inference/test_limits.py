"""What bounds a prediction: sizes, deadlines, a long model beside others; and no request, however odd, is a fault."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lepton.v1 import registry_pb2
from servicekit.errors import InvalidArgument, ResourceExhausted, Unimplemented
from servicekit.rpc.channel import ServiceChannel
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.open_inference import grpc_service_pb2_grpc
from services.inference.serving.codec import TYPED_FIELDS, parse_inputs, requested_outputs
from services.inference.serving.loading import load_model
from services.inference.serving.model import NUMPY_TYPES, LoadedModel
from services.inference.serving.replies import build_reply, to_raw
from services.inference.serving.table import Entry, ServingTable
from tests.inference.fronts import LANES, serving
from tests.inference.house import refused
from tests.inference.models import columns, identity
from tests.support.credentials import MakeToken, bearer

_LIMIT = 1 << 20


def counting() -> LoadedModel:
    """Return a model that counts to its input before it answers: a second for some millions."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Sin", ["value"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, []),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "true", "one"], ["y"], body=body)],
        "counting",
        [helper.make_tensor_value_info("n", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [
            helper.make_tensor("true", TensorProto.BOOL, [], [True]),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        ],
    )
    serialized = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return load_model("counting", registry_pb2.Version(number=1), serialized.SerializeToString())


def _count(n: int) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="counting", raw_input_contents=[to_raw("INT64", np.array(n))])
    request.inputs.add(name="n", datatype="INT64", shape=[])
    return request


def _floats(rows: int) -> pb.ModelInferRequest:
    array = np.zeros((rows, 3), dtype=np.float32)
    request = pb.ModelInferRequest(model_name="echo", raw_input_contents=[to_raw("FP32", array)])
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 3])
    return request


@contextlib.asynccontextmanager
async def _serving(
    credentials: Path, fast_lane: bool, threads: int = 2, most_waiting: int = 1024
) -> AsyncIterator[grpc.aio.Channel]:
    table = ServingTable()
    table.set("default", "echo", Entry({1: identity("FP32")}))
    table.set("default", "counting", Entry({1: counting()}))
    running = serving(
        table,
        credentials,
        (),
        fast_lane=fast_lane,
        threads=threads,
        max_message_bytes=_LIMIT,
        max_queue_requests=most_waiting,
    )
    async with running as served:
        yield served.channel


@pytest.fixture(params=LANES)
def lane(request: pytest.FixtureRequest) -> bool:
    found: bool = request.param
    return found


@pytest.fixture
async def channel(platform_files: Path, lane: bool) -> AsyncIterator[grpc.aio.Channel]:
    async with _serving(platform_files, lane) as open_:
        yield open_


@pytest.fixture
def viewer(make_token: MakeToken) -> tuple[tuple[str, str], ...]:
    return bearer(make_token("viewer"))


async def test_message_over_the_budget_is_refused_and_one_under_it_is_served(
    channel: grpc.aio.Channel, viewer: Any
) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    fits = await stub.ModelInfer(_floats(80_000), metadata=viewer)
    assert list(fits.outputs[0].shape) == [80_000, 3]
    await refused(stub.ModelInfer(_floats(100_000), metadata=viewer), grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert (await stub.ModelInfer(_floats(1), metadata=viewer)).model_version == "1"


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_understood(
    channel: grpc.aio.Channel, viewer: Any, compression: grpc.Compression
) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    answer = await stub.ModelInfer(_floats(1000), metadata=viewer, compression=compression)
    assert len(answer.raw_output_contents[0]) == 12_000


@pytest.mark.parametrize("short_ones", [0, 400])
async def test_long_model_holds_nobody_up_and_ends_with_its_deadline(
    platform_files: Path, lane: bool, viewer: Any, short_ones: int
) -> None:
    async with _serving(platform_files, lane, threads=1) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for _ in range(short_ones):
            await stub.ModelInfer(_count(1), metadata=viewer)
        # Hours of counting, of which the caller waits for a minute; and the same of another length.
        long = asyncio.ensure_future(stub.ModelInfer(_count(1 << 40), metadata=viewer, timeout=60))
        await asyncio.sleep(0.1)
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        assert (await stub.ServerLive(pb.ServerLiveRequest(), metadata=viewer)).live
        for rows in (1, 2, 3):
            assert (await stub.ModelInfer(_floats(rows), metadata=viewer)).model_version == "1"
        assert not long.done()
        long.cancel()
        late = stub.ModelInfer(_count(1 << 40), metadata=viewer, timeout=0.5)
        await refused(late, grpc.StatusCode.DEADLINE_EXCEEDED)
        # The one thread is free again, hours of counting before its time.
        assert (await stub.ModelInfer(_count(1), metadata=viewer, timeout=60)).model_version == "1"


@pytest.mark.parametrize("asked_before", [0, 2])
async def test_parameter_timeout_ends_a_request_as_a_deadline_does(
    platform_files: Path, lane: bool, viewer: Any, asked_before: int
) -> None:
    async with _serving(platform_files, lane, threads=1) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        short, long = _count(1), _count(1 << 40)
        # A request that begins like one before is read another way.
        for request in (short, long):
            request.parameters["timeout"].int64_param = 1_500_000
        for _ in range(asked_before):
            await stub.ModelInfer(short, metadata=viewer)
        await refused(stub.ModelInfer(long, metadata=viewer, timeout=60), grpc.StatusCode.DEADLINE_EXCEEDED, "longer")
        assert (await stub.ModelInfer(_count(1), metadata=viewer, timeout=60)).model_version == "1"
        long.parameters["timeout"].string_param = "soon"
        await refused(stub.ModelInfer(long, metadata=viewer), grpc.StatusCode.INVALID_ARGUMENT, "microseconds")


async def test_full_queue_says_when_to_come_back(platform_files: Path, lane: bool, viewer: Any) -> None:
    async with _serving(platform_files, lane, 1, most_waiting=32) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(ServiceChannel(channel))
        calls = [stub.ModelInfer(_count(20_000), metadata=viewer, timeout=240) for _ in range(40)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, ResourceExhausted)]
        assert 0 < len(refusals) < 40
        assert len(refusals) == sum(isinstance(answer, BaseException) for answer in answers)
        assert all(refusal.retry_seconds and 0.05 <= refusal.retry_seconds <= 30 for refusal in refusals)


@pytest.mark.parametrize(
    "method", ["SystemSharedMemoryRegister", "CudaSharedMemoryStatus", "TraceSetting", "LogSettings"]
)
async def test_what_is_not_built_is_unimplemented(channel: grpc.aio.Channel, viewer: Any, method: str) -> None:
    call: Any = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
    await refused(call(b"", metadata=viewer), grpc.StatusCode.UNIMPLEMENTED)


_MODELS = [identity(datatype) for datatype in (*NUMPY_TYPES, "BYTES")] + [columns("error"), counting()]
_NAMES = st.sampled_from(["x", "y", "n", "amount", "purpose", "amount_out", "", "z"])
_DATATYPES = st.sampled_from([*NUMPY_TYPES, "BYTES", "BF16", "", "FP8"])
_DIMS = st.one_of(st.integers(-1, 4), st.sampled_from([1 << 20, 1 << 40, (1 << 63) - 1]))
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64_contents": st.integers(-3, 3),
    "uint_contents": st.integers(0, (1 << 32) - 1),
    "uint64_contents": st.integers(0, (1 << 64) - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=5),
}


@st.composite
def _parameters(draw: st.DrawFn) -> pb.InferParameter:
    return draw(
        st.sampled_from(
            [
                pb.InferParameter(),
                pb.InferParameter(int64_param=2),
                pb.InferParameter(int64_param=-1),
                pb.InferParameter(string_param="x"),
                pb.InferParameter(double_param=1.5),
                pb.InferParameter(uint64_param=1 << 63),
            ]
        )
    )


_PARAMETER_NAMES = st.sampled_from(["classification", "triton_x", "mine", "shared_memory_region", "binary_data"])


@st.composite
def _requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(id=draw(st.text(max_size=3)))
    for _ in range(draw(st.integers(0, 3))):
        datatype = draw(_DATATYPES)
        tensor = request.inputs.add(name=draw(_NAMES), datatype=datatype, shape=draw(st.lists(_DIMS, max_size=3)))
        if draw(st.booleans()):
            field = draw(st.sampled_from([TYPED_FIELDS.get(datatype, "fp32_contents"), *_VALUES]))
            getattr(tensor.contents, field).extend(draw(st.lists(_VALUES[field], max_size=6)))
        if draw(st.integers(0, 9)) == 0:
            tensor.parameters[draw(_PARAMETER_NAMES)].CopyFrom(draw(_parameters()))
    for content in draw(st.lists(st.binary(max_size=40), max_size=2)):
        request.raw_input_contents.append(content)
    for _ in range(draw(st.integers(0, 2))):
        output = request.outputs.add(name=draw(_NAMES))
        if draw(st.booleans()):
            output.parameters[draw(_PARAMETER_NAMES)].CopyFrom(draw(_parameters()))
    return request


@settings(max_examples=500, deadline=None)
@given(_requests(), st.sampled_from(_MODELS))
def test_no_request_is_a_fault(request: pb.ModelInferRequest, model: LoadedModel) -> None:
    try:
        inputs = parse_inputs(request, model)
        names = requested_outputs(request, model)
        reply = build_reply(request, model, names, model.run(inputs, names))
    except (InvalidArgument, Unimplemented):
        return
    assert reply.id == request.id
    assert [output.name for output in reply.outputs] == names
    assert len(reply.raw_output_contents) in (0, len(names))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_fitting_shape_with_any_values_is_answered_or_refused_for_its_values(data: st.DataObject) -> None:
    """Requests that pass the outer checks, so that values and outputs are tried, too."""
    datatype = data.draw(st.sampled_from([*TYPED_FIELDS]))
    model = identity(datatype)
    rows = data.draw(st.integers(0, 3))
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[rows, 3])
    field = TYPED_FIELDS[datatype]
    getattr(tensor.contents, field).extend(data.draw(st.lists(_VALUES[field], min_size=rows * 3, max_size=rows * 3)))
    if data.draw(st.booleans()):
        request.outputs.add(name="y").parameters["classification"].int64_param = data.draw(st.integers(-1, 5))
    try:
        inputs = parse_inputs(request, model)
        names = requested_outputs(request, model)
    except InvalidArgument:
        return
    try:
        reply = build_reply(request, model, names, model.run(inputs, names))
    except InvalidArgument:
        # An identity gives back as text what was none.
        if datatype != "BYTES":
            raise
        return
    assert reply.outputs[0].shape[0] == rows
