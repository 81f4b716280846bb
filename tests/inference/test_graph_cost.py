"""Which graphs' runs take a time that the shapes of their inputs bound."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.inference.serving.graph_cost import has_value_dependent_cost

_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, object], functions: list[onnx.FunctionProto] | None = None
) -> onnx.ModelProto:
    """Return a model of inputs `x` (FLOAT) and `n` (INT64), and some constants."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", _FLOAT, None), helper.make_tensor_value_info("n", _INT, None)],
        [helper.make_tensor_value_info(nodes[-1].output[0], _FLOAT, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, functions=functions or [], opset_imports=opsets)


def _branch(output: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(output, _FLOAT, None)])


def _if(condition: str, *nodes: onnx.NodeProto) -> onnx.NodeProto:
    other = _branch("e", helper.make_node("Identity", ["x"], ["e"]))
    return helper.make_node("If", [condition], ["y"], then_branch=_branch("t", *nodes), else_branch=other)


_NODE = helper.make_node
_EXPAND = _NODE("Expand", ["x", "n"], ["t"])
_OWN = helper.make_function(
    "own",
    "Grow",
    ["data", "to"],
    ["grown"],
    [_NODE("Expand", ["data", "to"], ["grown"])],
    [helper.make_opsetid("", 21)],
)


@pytest.mark.parametrize(
    "nodes",
    [
        [_NODE("Range", ["zero", "n", "one"], ["y"])],
        [_NODE("ConstantOfShape", ["n"], ["y"])],
        [_NODE("Expand", ["x", "n"], ["y"])],
        [_NODE("Tile", ["x", "n"], ["y"])],
        [_NODE("Reshape", ["x", "n"], ["y"])],
        [_NODE("Resize", ["x", "", "", "n"], ["y"])],
        [_NODE("Pad", ["x", "n"], ["y"])],
        [_NODE("NonZero", ["x"], ["y"])],
        [_NODE("Compress", ["x", "n"], ["y"])],
        [_NODE("TopK", ["x", "n"], ["y", "i"])],
        # Through other nodes.
        [_NODE("Add", ["n", "one"], ["m"]), _NODE("Cast", ["m"], ["k"], to=_INT), _NODE("Expand", ["x", "k"], ["y"])],
        [_NODE("LSTM", ["x", "w", "r", "", "n"], ["y"], hidden_size=1)],
        [_NODE("Loop", ["n", "true", "x"], ["y"], body=_branch("b"))],
        [_NODE("Scan", ["x"], ["y"], num_scan_inputs=1, body=_branch("b"))],
        [_NODE("Cast", ["n"], ["c"], to=TensorProto.BOOL), _if("c", _NODE("Identity", ["x"], ["t"]))],
        # Within the branch of a condition that is constant.
        [_if("true", _EXPAND)],
        [_NODE("Unheard", ["x"], ["y"], domain="somebody")],
    ],
)
def test_a_graph_whose_work_depends_on_values_is_found(nodes: list[onnx.NodeProto]) -> None:
    constants: dict[str, object] = {"zero": 0, "one": 1, "true": True, "w": [0.0], "r": [0.0]}
    assert has_value_dependent_cost(_model(nodes, constants))


def test_a_function_of_the_model_is_looked_into_for_the_inputs_that_it_is_given() -> None:
    by_value = _model([_NODE("Grow", ["x", "n"], ["y"], domain="own")], {}, [_OWN])
    by_shape = _model([_NODE("Shape", ["x"], ["s"]), _NODE("Grow", ["x", "s"], ["y"], domain="own")], {}, [_OWN])
    assert has_value_dependent_cost(by_value)
    assert not has_value_dependent_cost(by_shape)


@pytest.mark.parametrize(
    "nodes",
    [
        [_NODE("Identity", ["x"], ["y"])],
        [_NODE("Reshape", ["x", "to"], ["y"])],
        [_NODE("Shape", ["x"], ["s"]), _NODE("ConstantOfShape", ["s"], ["y"])],
        [_NODE("Size", ["x"], ["s"]), _NODE("Range", ["zero", "s", "one"], ["y"])],
        [_NODE("Gather", ["table", "n"], ["y"])],
        [_if("true", _NODE("Identity", ["x"], ["t"]))],
        [_NODE("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml")],
    ],
)
def test_a_graph_that_shapes_bound_is_left_alone(nodes: list[onnx.NodeProto]) -> None:
    constants: dict[str, object] = {"zero": 0, "one": 1, "true": True, "to": [-1], "table": [1.0, 2.0]}
    assert not has_value_dependent_cost(_model(nodes, constants))


def test_an_input_with_a_value_in_the_graph_is_a_constant() -> None:
    model = _model([_NODE("Expand", ["x", "to"], ["y"])], {"to": [2, 2]})
    model.graph.input.append(helper.make_tensor_value_info("to", _INT, [2]))
    assert not has_value_dependent_cost(model)
