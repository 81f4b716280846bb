"""Graphs that say little of their tensors: any rank, optional inputs, no inputs; asked as their callers ask."""

from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

from lepton.v1 import registry_pb2
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.loading import load_model
from services.inference.serving.model import LoadedModel
from services.inference.serving.replies import to_raw
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
