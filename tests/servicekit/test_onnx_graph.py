"""Graphs read by the wire format, compared with the onnx package and ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from servicekit.onnx_graph import NotAGraph, read_values, unzip_maps
from tests.support import foreign_models as foreign
from tests.support import onnx_models


def test_shapes_keep_sizes_names_and_an_unknown_rank() -> None:
    inputs = [
        foreign.value("a", TensorProto.FLOAT, ["N", 3, None]),
        foreign.value("scalar", TensorProto.INT64, []),
        foreign.value("any", TensorProto.BFLOAT16, None),
        helper.make_tensor_sequence_value_info("many", TensorProto.FLOAT, None),
        foreign.value("w", TensorProto.FLOAT, [1]),
    ]
    outputs = [foreign.value("y", TensorProto.FLOAT, [-1])]
    content = foreign.graph(
        [helper.make_node("Add", ["a", "w"], ["y"])], inputs, outputs, {"w": np.ones(1, np.float32)}
    )
    found = read_values(content)
    assert [(item.name, str(item), item.shape) for item in found.inputs] == [
        ("a", "tensor(float)", ("N", 3, None)),
        ("scalar", "tensor(int64)", ()),
        ("any", "tensor(bfloat16)", None),
        ("many", "sequence", None),
    ]
    # An initializer is a default, and -1 no size.
    assert [item.shape for item in found.outputs] == [(None,)]


@pytest.mark.parametrize("classes", [("a", "ä b", ""), (0, 1), (-3, 7, 1 << 40)])
def test_zip_map_becomes_the_tensor_before_it(classes: tuple[str, ...] | tuple[int, ...]) -> None:
    content = foreign.classifier(classes)
    unzipped = unzip_maps(content)
    assert unzipped.labels == {"probabilities": tuple(map(str, classes))}
    x = np.random.default_rng(0).normal(size=(4, len(classes))).astype(np.float32)
    labels, maps = ort.InferenceSession(content).run(None, {"x": x})
    session = ort.InferenceSession(unzipped.content)
    assert [(item.name, item.type, item.shape) for item in session.get_outputs()] == [
        ("label", "tensor(int64)", ["N"]),
        ("probabilities", "tensor(float)", ["N", len(classes)]),
    ]
    found = session.run(None, {"x": x})
    assert found[0].tolist() == labels.tolist()
    assert found[1].tolist() == [[row[name] for name in classes] for row in maps]


def test_all_but_the_zip_map_stays_to_the_byte() -> None:
    before = onnx.ModelProto.FromString(foreign.classifier())
    after = onnx.ModelProto.FromString(unzip_maps(foreign.classifier()).content)
    assert [node.op_type for node in after.graph.node] == ["Softmax", "ArgMax", "Identity"]
    for model in (before, after):
        del model.graph.node[2], model.graph.output[1]
    assert before == after


def test_graph_without_zip_map_is_the_same_object() -> None:
    content = onnx_models.linear_model()
    assert unzip_maps(content).content is content
    # The name alone, in a text or as a node inside, changes nothing.
    named = onnx.ModelProto.FromString(content)
    named.doc_string = "ZipMap"
    assert unzip_maps(named.SerializeToString()).labels == {}


@settings(deadline=None)
@given(st.data())
def test_broken_bytes_are_no_graph_or_one(data: st.DataObject) -> None:
    content = bytearray(foreign.classifier())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_values(cut)
        unzip_maps(cut)
    except NotAGraph:
        pass
