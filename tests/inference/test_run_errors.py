"""Errors of runs: which are the caller's, which the machine's, which the model's, and what their messages say."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import NodeProto, TensorProto, helper

from servicekit.errors import Internal, InvalidArgument, LeptonError, ResourceExhausted, Unimplemented
from services.inference.serving.run_errors import run_error

_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64


def _refusal(node: NodeProto, x: object, n: object) -> LeptonError:
    """Run a node on `x` (FLOAT) and `n` (INT64), and return the error that it ends with."""
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", _FLOAT, None), helper.make_tensor_value_info("n", _INT, None)],
        [helper.make_tensor_value_info("y", _FLOAT, None)],
        [helper.make_tensor("table", _FLOAT, [2], [1.0, 2.0])],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception) as failure:  # noqa: PT011  (ONNX Runtime's classes are no public API)
        session.run(None, {"x": np.array(x, np.float32), "n": np.array(n, np.int64)})
    assert isinstance(failure.value, Exception)
    return run_error("m", failure.value)


_NODE = helper.make_node
_BRANCH = helper.make_graph(
    [_NODE("Gather", ["table", "n"], ["b"])], "branch", [], [helper.make_tensor_value_info("b", _FLOAT, None)]
)


@pytest.mark.parametrize(
    ("node", "x", "n", "said"),
    [
        (
            _NODE("Gather", ["table", "n"], ["y"]),
            [1],
            [7],
            "operator Gather: indices element out of data bounds, idx=7",
        ),
        (_NODE("Reshape", ["x", "n"], ["y"]), [1, 2, 3], [2, 2], "The input tensor cannot be reshaped"),
        (_NODE("Concat", ["x", "table"], ["y"], axis=0), [[1, 2]], [1], "operator Concat: Ranks of input data are"),
        (_NODE("Add", ["x", "table"], ["y"]), [1, 2, 3], [1], "operator Add: "),
        (_NODE("MatMul", ["x", "table"], ["y"]), [[1, 2, 3]], [1], "operator MatMul: MatMul dimension mismatch"),
        (_NODE("TopK", ["x", "n"], ["y", "i"]), [1, 2], [5], "k argument [5] should not be greater"),
        (_NODE("Expand", ["x", "n"], ["y"]), [1, 2], [3], "operator Expand: "),
    ],
)
def test_what_does_not_fit_the_graph_is_the_callers(node: NodeProto, x: object, n: object, said: str) -> None:
    error = _refusal(node, x, n)
    assert isinstance(error, InvalidArgument)
    assert error.reason == "INPUT_REJECTED"
    assert said in error.message
    assert error.message.startswith("model 'm' does not take this input: operator ")
    assert not any(place in error.message for place in (".cc", ".h:", "onnxruntime::", "Non-zero status", "/"))
    assert error.holds_values


def test_operator_of_a_branch_is_the_innermost() -> None:
    node = _NODE("If", ["c"], ["y"], then_branch=_BRANCH, else_branch=_BRANCH)
    graph = helper.make_graph(
        [_NODE("Cast", ["n"], ["c"], to=TensorProto.BOOL), node],
        "graph",
        [helper.make_tensor_value_info("n", _INT, [])],
        [helper.make_tensor_value_info("y", _FLOAT, None)],
        [helper.make_tensor("table", _FLOAT, [2], [1.0, 2.0])],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="idx=7") as failure:
        session.run(None, {"n": np.array(7)})
    assert isinstance(failure.value, Exception)
    assert "input: operator Gather: indices" in run_error("m", failure.value).message


def test_more_memory_than_there_is_is_a_limit_and_says_nothing_of_the_machine() -> None:
    error = _refusal(_NODE("Expand", ["x", "n"], ["y"]), [1], [1 << 44])
    assert isinstance(error, ResourceExhausted)
    assert error.reason == "OUT_OF_MEMORY"
    assert isinstance(run_error("m", MemoryError()), ResourceExhausted)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : no such kernel", Unimplemented, "OPERATOR_NOT_IMPLEMENTED"),
        ("[ONNXRuntimeError] : 11 : EP_FAIL : it broke", Internal, "MODEL_FAULT"),
        ("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 700: an illegal memory access", Internal, "MODEL_FAULT"),
        ("[ONNXRuntimeError] : 1 : FAIL : Exiting due to terminate flag being set to true.", Internal, "RUN_ENDED"),
        ("something of Python's", Internal, "MODEL_FAULT"),
    ],
)
def test_what_the_model_or_the_machine_cannot_do_keeps_its_kind(text: str, kind: type, reason: str) -> None:
    error = run_error("m", RuntimeError(text))
    assert isinstance(error, kind)
    assert error.reason == reason
