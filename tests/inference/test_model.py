"""What ONNX Runtime takes, and what it cannot."""

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from lepton.v1 import common_pb2, registry_pb2
from servicekit.errors import FailedPrecondition
from services.inference.serving.loading import load_model
from tests.inference.models import identity
from tests.support import onnx_models


@pytest.mark.parametrize("content", [b"", b"no model", onnx_models.custom_domain_model()])
def test_model_that_cannot_be_served_is_refused_with_a_reason(content: bytes) -> None:
    with pytest.raises(FailedPrecondition) as refusal:
        load_model("d", registry_pb2.Version(number=1), content)
    assert refusal.value.reason == "LOAD_FAILED"
    assert "Traceback" not in refusal.value.message


def test_types_that_onnx_runtime_does_not_hand_out_are_refused_by_name() -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT8E4M3FN, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    with pytest.raises(FailedPrecondition, match="float8e4m3fn"):
        load_model("d", registry_pb2.Version(number=1), model.SerializeToString())


def test_processor_serves_where_there_is_no_gpu_and_says_so() -> None:
    assert identity("FP32").provider in ("CPUExecutionProvider", "CUDAExecutionProvider")


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="needs a CUDA device")
def test_gpu_is_taken_where_there_is_one() -> None:
    assert identity("FP32").provider == "CUDAExecutionProvider"


def test_inputs_that_share_a_dimension_share_their_rows_and_others_do_not() -> None:
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [dimension])
        for name, dimension in (("a", "rows"), ("b", "rows"), ("c", "others"), ("d", 2))
    ]
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None) for name in "abcd"]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in "abcd"]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    loaded = load_model("d", registry_pb2.Version(number=1), model.SerializeToString())
    assert [spec.batch for spec in loaded.inputs.values()] == ["rows", "rows", "others", None]


def test_missing_value_is_no_unknown_category() -> None:
    spec = common_pb2.TensorSpec(
        name="kind", kind=common_pb2.COLUMN_KIND_CATEGORICAL, nullable=True, categories=["a", "b"]
    )
    signature = common_pb2.Signature(inputs=[spec], handle_unknown="error")
    loaded = load_model("d", registry_pb2.Version(number=1, signature=signature), onnx_models.column_model())
    assert loaded.inputs["kind"].known == frozenset(("a", "b", ""))


def test_long_runs_are_known_before_they_begin() -> None:
    model = identity("FP32")
    assert 0 < model.expected_seconds(1) < 1
    model.learn(10, 500.0)
    assert model.expected_seconds(10) > 1
