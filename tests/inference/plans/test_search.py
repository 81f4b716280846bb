"""The search itself, without a process around it; and what graphs are made of."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.inference.domain.tuning import TuningMode, Wish
from services.inference.plans.graph import index_limits, read_facts
from services.inference.plans.rows import Group
from services.inference.plans.search import Evidence, Question, search
from tests.inference.plans.graphs import convolutions, hardware, labelled, layers


def _question(graph: bytes, *, may_build: bool) -> Question:
    return Question(graph, hardware(), Wish(TuningMode.WITHIN_LOSS, 0.5, ""), "", (), 3.0, may_build)


def test_without_a_folder_in_memory_no_graph_is_written() -> None:
    graph = layers()
    x, labels = labelled(graph, 150)
    evidence = Evidence([Group({"x": x}, np.arange(150))], [str(label) for label in labels], "rows@1", "judged")
    found = search(_question(graph, may_build=False), evidence)
    assert (found.chosen.name, found.content) == ("plain", graph)
    assert found.outcomes["int8_dynamic"] == "not tried: there is no folder in memory to build it in"
    # Speed and quality of the plain plan are told all the same.
    assert found.quality is not None
    assert found.quality.plain_points == 100.0
    assert found.batch_rows > 0


def test_graphs_tell_what_they_are_made_of() -> None:
    dense = read_facts(onnx.load_from_string(layers()))
    assert (dense.constant_products, dense.has_convolutions, dense.is_transformer) == (3, False, False)
    convolving = read_facts(onnx.load_from_string(convolutions()))
    assert (convolving.constant_products, convolving.has_convolutions) == (5, True)


def test_tables_that_an_input_looks_up_are_found_behind_casts() -> None:
    tables = [numpy_helper.from_array(np.zeros((size, 2), np.float32), f"t{size}") for size in (10, 7)]
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["t10", "wide"], ["a"]),
        helper.make_node("Gather", ["t7", "ids"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        tables,
    )
    assert index_limits(helper.make_model(graph)) == {"ids": 7}
