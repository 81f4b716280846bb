"""Integer divisions by -1, which would end the process: run in a process of their own."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lepton.v1 import registry_pb2
from services.inference.serving.loading import load_model
from services.inference.serving.safe_division import guard_divisions

_INT, _LEAST = TensorProto.INT64, -(2**63)

_DIVIDES = """
import sys
import numpy as np
from lepton.v1 import registry_pb2
from services.inference.serving.loading import load_model
model = load_model("m", registry_pb2.Version(number=1), sys.stdin.buffer.read())
kind = np.int32 if model.inputs["x"].datatype == "INT32" else np.int64
x, z = np.array([np.iinfo(kind).min, 7, -7, 9], kind), np.array([-1, -1, 2, 3], kind)
[found] = model.run({"x": x, "z": z}, ["y"])
print(found.dtype, found.tolist())
"""


def _model(node: onnx.NodeProto, kind: int = _INT, **constants: list[int]) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, kind, ["n"]) for name in ("x", "z")]
    initializers = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    output = [helper.make_tensor_value_info("y", kind, ["n"])]
    graph = helper.make_graph([node], "division", inputs, output, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _in_branch(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a condition that is always true, around a node that gives `b`."""
    branch = helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("b", _INT, ["n"])])
    return helper.make_node("If", ["true"], ["y"], then_branch=branch, else_branch=branch)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (_model(helper.make_node("Div", ["x", "z"], ["y"])), f"int64 [{_LEAST}, -7, -3, 3]"),
        (_model(helper.make_node("Mod", ["x", "z"], ["y"])), "int64 [0, 0, 1, 0]"),
        (_model(helper.make_node("Div", ["x", "z"], ["y"]), TensorProto.INT32), f"int32 [{-(2**31)}, -7, -3, 3]"),
    ],
    ids=["Div", "Mod", "INT32"],
)
def test_the_least_integer_is_divided_by_minus_one(model: onnx.ModelProto, expected: str) -> None:
    command = [sys.executable, "-c", _DIVIDES]
    ran = subprocess.run(command, input=model.SerializeToString(), capture_output=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.decode().strip() == expected


def test_divisions_within_branches_are_guarded() -> None:
    model = _model(_in_branch(helper.make_node("Div", ["x", "z"], ["b"])))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "true"))
    guarded = onnx.ModelProto.FromString(guard_divisions(model.SerializeToString(), model))
    branches = [item.g for item in guarded.graph.node[0].attribute]
    assert all("Where" in [node.op_type for node in branch.node] for branch in branches)
    loaded = load_model("m", registry_pb2.Version(number=1), model.SerializeToString())
    [found] = loaded.run({"x": np.array([6, 7]), "z": np.array([-1, 2])}, ["y"])
    assert found.tolist() == [-6, 3]


@pytest.mark.parametrize(
    "model",
    [
        _model(helper.make_node("Div", ["x", "by"], ["y"]), by=[2]),
        _model(helper.make_node("Div", ["x", "z"], ["y"]), TensorProto.FLOAT),
        _model(helper.make_node("Add", ["x", "z"], ["y"])),
    ],
    ids=["by a constant", "floats", "no division"],
)
def test_what_cannot_trap_is_left_as_it_is(model: onnx.ModelProto) -> None:
    content = model.SerializeToString()
    assert guard_divisions(content, model) is content
