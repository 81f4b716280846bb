"""The analysis of graphs: what it shows to be independent is so, and what mixes rows it never shows."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from services.inference.independence import analyse, read_model
from tests.inference.graph_texts import graph_of
from tests.inference.independence.zoo import INDEPENDENT, MIXED, compare_with_lone_rows, graph, rows_of, session_of


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_are_shown_to_be_so_and_are(name: str) -> None:
    content, random = graph(name), np.random.default_rng(1)
    assert analyse(read_model(content)).why == ""
    session = session_of(content)
    for counts in ((1, 1), (2, 1, 3)):
        parts = [rows_of(session, random, count) for count in counts]
        assert compare_with_lone_rows(session, parts) == ""


@pytest.mark.parametrize("name", MIXED)
def test_mixed_rows_are_never_shown_to_be_independent(name: str) -> None:
    verdict = analyse(read_model(graph(name)))
    assert not verdict.is_independent
    assert MIXED[name][1] in verdict.why


def test_only_the_outputs_that_count_are_looked_at() -> None:
    model = read_model(graph("shape told"))
    assert analyse(model, ["y"]).is_independent
    assert not analyse(model, ["n"]).is_independent


@pytest.mark.parametrize(
    "inputs",
    ["float[2,3] x", "float[N,N] x", "float[N] x, float[3] z", "float[N,2] x, float[M,N] z", "float x"],
)
def test_inputs_without_a_batch_of_their_own_are_not_independent(inputs: str) -> None:
    text = f"g ({inputs}) => (float[K,L] y) {{ y = Neg(x) }}"
    assert "input" in analyse(read_model(graph_of(text))).why


def test_what_a_stranger_writes_is_never_shown_and_never_raises() -> None:
    for text in (
        "g (float[N,2] x) => (float[N,2] y) { y = Transpose<perm=[7,9]>(x) }",
        "g (float[N,2] x) => (float[N,2] y) { y = Neg(nowhere) }",
        "g (float[N,2] x) => (float[N,2] y) { y = Concat(x, x) }",
        "g (float[N,2] x) => (float[N,2] y) { y = Gemm(x) }",
    ):
        verdict = analyse(read_model(graph_of(text)))
        assert not verdict.is_independent and verdict.why


def test_local_functions_are_followed() -> None:
    text = """<ir_version: 9, opset_import: ["" : 17, "own" : 1]> g (float[N,2] x) => (float[N,2] y) { y = own.f(x) }
        <domain: "own", opset_import: ["" : 17]> f (a) => (b) { BODY }"""
    good = onnx.parser.parse_model(text.replace("BODY", "b = Neg(a)"))
    bad = onnx.parser.parse_model(text.replace("BODY", "b = Softmax<axis=0>(a)"))
    assert analyse(read_model(good.SerializeToString())).is_independent
    assert not analyse(read_model(bad.SerializeToString())).is_independent


def test_a_condition_that_is_the_same_for_all_rows_is_followed() -> None:
    text = """g (float[N,1] x) => (float[N,1] y) <bool c = {1}> {
        y = If (c) <then_branch = a () => (float[N,1] p) { p = Neg(x) },
                    else_branch = b () => (float[N,1] q) { q = BODY }> }"""
    assert analyse(read_model(graph_of(text.replace("BODY", "Identity(x)")))).is_independent
    assert not analyse(read_model(graph_of(text.replace("BODY", "Softmax<axis=0>(x)")))).is_independent


def test_large_weights_are_left_out_and_change_nothing() -> None:
    weights = np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32)
    graph_ = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 600])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 600])],
        [numpy_helper.from_array(weights, "w")],
    )
    content = helper.make_model(graph_, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    model = read_model(content)
    assert len(model.SerializeToString()) < 1000 < len(content)
    assert list(model.graph.initializer[0].dims) == [600, 600]
    assert model.graph.node == onnx.load_from_string(content).graph.node
    assert analyse(model).is_independent
