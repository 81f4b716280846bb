"""Models made elsewhere, as a worker loads and runs them."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from lepton.v1 import common_pb2, registry_pb2
from servicekit.errors import FailedPrecondition
from services.inference.adapters.registry_client import ExtraFiles
from services.inference.serving.loading import load_model
from services.inference.serving.run_times import INLINE_SECONDS
from tests.support import foreign_models as foreign
from tests.support import onnx_models

VERSION = registry_pb2.Version(number=1, digest="d")


def test_zip_map_is_served_as_its_tensor_with_labels() -> None:
    model = load_model("d", VERSION, foreign.classifier(("good", "bad")))
    assert list(model.outputs) == ["label", "probabilities"]
    assert model.outputs["probabilities"].labels == ("good", "bad")
    x = np.array([[0.0, 0.0], [5.0, 0.0]], np.float32)
    label, found = model.run({"x": x}, ["label", "probabilities"])
    assert label.tolist() == [0, 0]
    np.testing.assert_allclose(found, np.exp(x) / np.exp(x).sum(axis=1, keepdims=True), rtol=1e-6)


def test_outputs_that_no_reply_carries_are_left_out_and_not_run() -> None:
    model = load_model("d", VERSION, foreign.with_sequence())
    assert list(model.outputs) == ["y"]
    assert model.run({"x": np.ones((1, 2), np.float32)}, ["y"])[0].tolist() == [[2.0, 2.0]]


def test_sequences_are_rows_and_lengths() -> None:
    model = load_model("d", VERSION, foreign.of_sequences())
    assert list(model.inputs) == ["xs", "xs_lengths"]
    assert list(model.outputs) == ["ys", "ys_lengths"]
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    # Requests of another form than the warm-up's, and one without items.
    for lengths in ([6], [1, 5], [2, 1, 0, 3]):
        found = model.run({"xs": rows, "xs_lengths": np.array(lengths, np.int64)}, list(model.outputs))
        assert found[0].tolist() == (rows + 1).tolist()
        assert found[1].tolist() == lengths
    assert not model.is_by_row


def test_weights_of_several_files_come_from_memory() -> None:
    content, files = foreign.external(["a.bin", "model.onnx.data"], width=4096)
    model = load_model(
        "d", VERSION, content, extra_files=ExtraFiles({name: bytearray(data) for name, data in files.items()})
    )
    for data in files.values():
        # What the session has is its own.
        del data
    (found,) = model.run({"x": np.zeros((2, 4096), np.float32)}, ["y"])
    assert np.unique(found).tolist() == [3.0]
    with pytest.raises(FailedPrecondition, match=r"a\.bin"):
        load_model("d", VERSION, content)


def test_weights_within_nodes_of_a_subgraph_come_from_memory() -> None:
    extra_files = ExtraFiles({"w.bin": np.full(1, 4.0, np.float32).tobytes()})
    model = load_model("d", VERSION, onnx_models.hidden_external_data_model("w.bin"), extra_files=extra_files)
    assert model.run({"x": np.ones((1, 1), np.float32)}, ["prediction"])[0].tolist() == [[5.0]]


def test_model_whose_samples_all_fail_serves_and_is_taken_to_be_slow() -> None:
    model = load_model("d", VERSION, foreign.of_frames(777))
    assert model.run_seconds > INLINE_SECONDS
    assert not model.is_by_row
    assert model.run({"x": np.full((1, 777), 2.0, np.float32)}, ["y"])[0].tolist() == [[2.0]]


@pytest.mark.parametrize("rows", [1, 3])
def test_example_is_what_a_model_is_warmed_up_with(rows: int) -> None:
    # A row's own mean: any number of rows, but 777 columns each.
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["frames"]),
        helper.make_node("ReduceMean", ["frames"], ["y"], axes=[1], keepdims=1),
    ]
    content = foreign.graph(
        nodes,
        [foreign.value("x", TensorProto.FLOAT, ["batch", "samples"])],
        [foreign.value("y", TensorProto.FLOAT, ["batch", 1])],
        {"shape": np.array([-1, 777], np.int64)},
    )
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 777], "data": [1.0] * 777 * rows}
    model = load_model("d", VERSION, content, extra_files=ExtraFiles(example=json.dumps({"inputs": [tensor]}).encode()))
    # Without a sample that runs it is 1.0, and never so where it was measured.
    assert 0 < model.run_seconds != 1.0
    assert load_model("d", VERSION, content).run_seconds == 1.0
    # One that does not fit changes nothing.
    assert load_model("d", VERSION, content, extra_files=ExtraFiles(example=b"{}")).run_seconds == 1.0


def test_unknown_rank_is_sampled_with_the_signatures_word() -> None:
    spec = common_pb2.TensorSpec(name="x", datatype="FP32", any_rank=True)
    version = registry_pb2.Version(number=1, digest="d", signature=common_pb2.Signature(inputs=[spec]))
    model = load_model("d", version, foreign.any_rank())
    assert model.run_seconds != 1.0
