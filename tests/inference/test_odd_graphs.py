"""Graphs that say little of their tensors: any rank, optional inputs, no inputs; asked as their callers ask."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from lepton.v1 import registry_pb2
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.rest.codec import build_reply as build_body
from services.inference.rest.codec import parse_request
from services.inference.serving.codec import parse_inputs
from services.inference.serving.loading import load_model
from services.inference.serving.model import LoadedModel
from services.inference.serving.replies import build_reply, to_raw
from services.inference.serving.table import Entry, ServingTable
from tests.inference.fronts import LANES, serving
from tests.inference.house import refused
from tests.support.credentials import MakeToken, bearer


def _loaded(
    name: str, node: onnx.NodeProto, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]
) -> LoadedModel:
    graph = helper.make_graph([node], name, inputs, outputs)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    return load_model(name, registry_pb2.Version(number=1, digest="d"), content)


def any_rank() -> LoadedModel:
    """Return a model that gives back its input, of which the graph says no number of dimensions."""
    value = helper.make_tensor_value_info
    x, y = value("x", TensorProto.FLOAT, None), value("y", TensorProto.FLOAT, None)
    return _loaded("any-rank", helper.make_node("Identity", ["x"], ["y"]), [x], [y])


def optional_input() -> LoadedModel:
    """Return a model that says whether its optional input is there."""
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"]))
    y = helper.make_tensor_value_info("y", TensorProto.BOOL, [])
    node = helper.make_node("OptionalHasElement", ["x"], ["y"])
    return _loaded("optional", node, [helper.make_value_info("x", kind)], [y])


def no_input() -> LoadedModel:
    """Return a model of a constant."""
    node = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.array([1.0, 2.0], np.float32)))
    return _loaded("no-input", node, [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])])


def brain_floats() -> LoadedModel:
    """Return a model that gives back bfloat16, and as FP32."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT)],
        "brain-floats",
        [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, ["rows", 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.BFLOAT16, ["rows", 2]),
            helper.make_tensor_value_info("wide", TensorProto.FLOAT, ["rows", 2]),
        ],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    return load_model("brain-floats", registry_pb2.Version(number=1, digest="d"), content)


@pytest.mark.parametrize("fast_lane", LANES)
async def test_bfloat16_goes_both_ways(platform_files: Path, make_token: MakeToken, fast_lane: bool) -> None:
    table, token = ServingTable(), bearer(make_token("viewer"))
    table.set("default", "brain-floats", Entry({1: brain_floats()}))
    # 1, -2.5, infinity and the largest number.
    bits = np.array([[0x3F80, 0xC020], [0x7F80, 0x7F7F]], np.uint16)
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    request = pb.ModelInferRequest(raw_input_contents=[bits.tobytes()])
    request.inputs.add(name="x", datatype="BF16", shape=[2, 2])
    async with serving(table, platform_files, token, fast_lane=fast_lane) as served:
        for _ in range(2):
            replies = await asyncio.gather(*[served.infer("brain-floats", request=request) for _ in range(4)])
            for reply in replies:
                assert [tensor.datatype for tensor in reply.outputs] == ["BF16", "FP32"]
                assert list(reply.raw_output_contents) == [bits.tobytes(), wide.tobytes()]
        wanted = pb.ModelInferRequest()
        wanted.CopyFrom(request)
        wanted.outputs.add(name="y").parameters["classification"].int64_param = 1
        classes = await served.infer("brain-floats", request=wanted)
        assert b"1.000000:0" in classes.raw_output_contents[0]


def test_bfloat16_is_numbers_in_json() -> None:
    model = brain_floats()
    document = {"inputs": [{"name": "x", "datatype": "BF16", "shape": [1, 2], "data": [-2.5, "Infinity"]}]}
    request, wanted = parse_request(json.dumps(document).encode(), None, "brain-floats", "")
    inputs = parse_inputs(request, model)
    arrays = model.run(inputs, ["y"])
    body, _ = build_body(build_reply(request, model, ["y"], arrays), wanted)
    assert json.loads(body)["outputs"][0]["data"] == [-2.5, "Infinity"]


def _request(name: str, array: np.ndarray | None = None, *, typed: bool = False) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=name)
    if array is not None:
        tensor = request.inputs.add(name="x", datatype="FP32", shape=array.shape)
        if typed:
            tensor.contents.fp32_contents.extend(array.reshape(-1).tolist())
        else:
            request.raw_input_contents.append(to_raw("FP32", array))
    return request


@pytest.mark.parametrize("fast_lane", LANES)
async def test_graphs_that_say_little_are_served(platform_files: Path, make_token: MakeToken, fast_lane: bool) -> None:
    table, token = ServingTable(), bearer(make_token("viewer"))
    makers: list[Callable[[], LoadedModel]] = [any_rank, optional_input, no_input]
    for model in [make() for make in makers]:
        table.set("default", model.deployment, Entry({1: model}))
    async with serving(table, platform_files, token, fast_lane=fast_lane) as served:
        for shape in ((), (3,), (1, 3), (2, 0, 3), (1, 2, 3, 4, 5)):
            array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
            # Twice, for the second request is read another way.
            for typed in (False, False, True):
                reply = await served.infer("any-rank", request=_request("", array, typed=typed))
                assert tuple(reply.outputs[0].shape) == shape
                if not typed:
                    assert reply.raw_output_contents[0] == array.tobytes()
        negative = _request("", np.ones(3, np.float32))
        negative.inputs[0].shape[:] = [-3]
        await refused(served.infer("any-rank", request=negative), grpc.StatusCode.INVALID_ARGUMENT, "sizes from 0")

        for _ in range(2):
            with_it = await served.infer("optional", request=_request("", np.ones(2, np.float32)))
            without = await served.infer("optional", request=_request(""))
            assert (with_it.raw_output_contents[0], without.raw_output_contents[0]) == (b"\x01", b"\x00")

        for _ in range(2):
            constant = await served.infer("no-input", request=_request(""))
            assert constant.raw_output_contents[0] == np.array([1.0, 2.0], np.float32).tobytes()

        described = await served.stub.ModelMetadata(pb.ModelMetadataRequest(name="any-rank"), metadata=token)
        assert list(described.inputs[0].shape) == [-1]
        assert described.properties["rank:x"] == "any"
        assert not table.get("default", "any-rank").models[1].is_batchable
