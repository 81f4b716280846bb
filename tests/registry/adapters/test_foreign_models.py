"""Models made elsewhere in the verifying child: what is served of them, with which warnings, and what is refused."""

import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from services.registry.adapters.verifier import ChildVerifier
from services.registry.domain.versions import Refusal, Tensor, Verdict
from services.registry.verifier.graph import try_model
from services.registry.verifier.refusal import Refused
from tests.support import foreign_models as foreign
from tests.support import onnx_models


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    file = io.BytesIO(content)
    while piece := file.read(1000):
        yield piece


async def _in_child(content: bytes, files: Mapping[str, bytes] | None = None) -> Verdict:
    extra_files = [(name, len(data), _pieces(data)) for name, data in (files or {}).items()]
    return await ChildVerifier(60.0).verify(_pieces(content), len(content), {}, extra_files)


def _verify(content: bytes, files: Mapping[str, bytes] | None = None) -> Verdict:
    """Return what the child would find, without the second that a process takes."""
    try:
        found: Any = try_model({"model.onnx": content, **(files or {})}, {})
    except Refused as refused:
        return Verdict(refusal=Refusal(refused.reason, refused.message))
    return Verdict(
        _tensors(found["inputs"]),
        _tensors(found["outputs"]),
        warnings=tuple(found["warnings"]),
        sample_failure=found["sample_failure"],
        weight_files=tuple(found["weight_files"]),
    )


def _tensors(found: Any) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(item["name"], item["datatype"], tuple(item["shape"]), "", tuple(item["labels"]), item["any_rank"])
        for item in found
    )


def _example(**inputs: Any) -> bytes:
    listed = [
        {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.tolist()}
        for name, array in inputs.items()
    ]
    return json.dumps({"inputs": listed}).encode()


def test_sample_that_fails_is_no_refusal_and_an_example_is_tried_instead() -> None:
    verdict = _verify(foreign.of_frames(777))
    assert verdict.refusal is None
    assert "cannot be reshaped" in verdict.sample_failure
    assert "example" in verdict.sample_failure
    verdict = _verify(foreign.of_frames(777), {"example.json": _example(x=np.zeros((1, 777), np.float32))})
    assert (verdict.refusal, verdict.sample_failure, verdict.warnings) == (None, "", ())
    verdict = _verify(foreign.of_frames(777), {"example.json": _example(x=np.zeros((1, 776), np.float32))})
    assert verdict.sample_failure.startswith("the example's prediction failed: ")


def test_usual_sizes_are_found_by_trying() -> None:
    for size in (1, 8, 16, 224, 512):
        verdict = _verify(foreign.of_frames(size))
        # A model that takes one row alone is served, and the version says so.
        assert "requests of one row alone" in verdict.sample_failure


def test_example_of_another_model_is_not_used_and_named() -> None:
    verdict = _verify(onnx_models.linear_model(), {"example.json": _example(z=np.zeros((1, 2), np.float32))})
    assert verdict.refusal is None
    assert verdict.warnings == ("the example is not used: it has no input 'x'",)


def test_dimensions_of_one_name_are_bound_over_inputs() -> None:
    verdict = _verify(foreign.bound_names())
    assert (verdict.refusal, verdict.sample_failure) == (None, "")


async def test_zip_map_is_a_tensor_with_labels_and_the_version_says_so() -> None:
    verdict = await _in_child(foreign.classifier(("good", "bad")))
    assert (verdict.refusal, verdict.sample_failure) == (None, "")
    assert verdict.outputs == (
        Tensor("label", "INT64", (-1,)),
        Tensor("probabilities", "FP32", (-1, 2), labels=("good", "bad")),
    )
    (warning,) = verdict.warnings
    assert "'probabilities'" in warning


def test_sequence_output_beside_a_tensor_is_left_out_with_a_remedy() -> None:
    verdict = _verify(foreign.with_sequence())
    assert verdict.refusal is None
    assert [tensor.name for tensor in verdict.outputs] == ["y"]
    (warning,) = verdict.warnings
    assert "'rows' is left out" in warning
    assert "ConcatFromSequence" in warning


@pytest.mark.parametrize("content", [foreign.takes_sequence(), onnx_models.sequence_model(), foreign.of_sequences()])
def test_sequence_is_two_tensors_where_there_is_no_other_way(content: bytes) -> None:
    verdict = _verify(content)
    assert (verdict.refusal, verdict.sample_failure) == (None, "")
    names = [tensor.name for tensor in (*verdict.inputs, *verdict.outputs)]
    assert len(verdict.warnings) == sum(name.endswith("_lengths") for name in names) > 0
    for warning in verdict.warnings:
        assert "how many rows each item has" in warning


def test_optional_sequence_is_refused_with_what_to_do() -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    given = helper.make_value_info("xs", helper.make_optional_type_proto(kind))
    node = helper.make_node("OptionalHasElement", ["xs"], ["y"])
    verdict = _verify(foreign.graph([node], [given], [foreign.value("y", TensorProto.BOOL, [])]))
    assert verdict.refusal is not None
    assert verdict.refusal.reason == "UNSUPPORTED_TYPE"
    for words in ("input 'xs'", "optional(seq(tensor(float)))", "one tensor"):
        assert words in verdict.refusal.message


def test_unknown_rank_is_told_from_a_scalar() -> None:
    verdict = _verify(foreign.any_rank())
    assert (verdict.refusal, verdict.sample_failure) == (None, "")
    assert verdict.inputs == (Tensor("x", "FP32", (), any_rank=True),)
    scalar = foreign.graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        [foreign.value("x", TensorProto.FLOAT, [])],
        [foreign.value("y", TensorProto.FLOAT, [])],
    )
    verdict = _verify(scalar)
    assert verdict.inputs == (Tensor("x", "FP32", ()),)


async def test_weights_in_several_files_are_read_from_memory() -> None:
    content, files = foreign.external(["a.bin", "model.onnx.data", "a.bin", "layer.0.weight"])
    verdict = await _in_child(content, files)
    assert (verdict.refusal, verdict.sample_failure) == (None, "")
    assert verdict.weight_files == ("a.bin", "layer.0.weight", "model.onnx.data")
    assert set(verdict.digests) == set(files)


def test_weights_within_nodes_of_a_subgraph_are_read_from_memory() -> None:
    content = onnx_models.hidden_external_data_model("w.bin")
    verdict = _verify(content, {"w.bin": np.ones(1, np.float32).tobytes()})
    assert (verdict.refusal, verdict.sample_failure) == (None, "")
    assert verdict.weight_files == ("w.bin",)


@pytest.mark.parametrize(
    ("location", "entries", "words"),
    [
        ("missing.data", {}, "missing.data is missing"),
        ("../model.onnx.data", {}, "plain name"),
        ("/etc/hostname", {}, "plain name"),
        ("./model.onnx.data", {}, "plain name"),
        ("", {}, "plain name"),
        ("*/_ORT_MEM_ADDR_/*", {"offset": "140000000000"}, "plain name"),
        ("model.onnx.data", {"offset": "200"}, "which has 256"),
        ("model.onnx.data", {"length": "300"}, "which has 256"),
        ("model.onnx.data", {"offset": "-4"}, "which has 256"),
        ("model.onnx.data", {"offset": "x"}, "no valid place"),
    ],
)
def test_weights_outside_of_the_versions_own_files_are_refused(
    location: str, entries: dict[str, str], words: str
) -> None:
    content, files = foreign.external()
    model = onnx.ModelProto.FromString(content)
    tensor = model.graph.initializer[0]
    changed = {entry.key: entry.value for entry in tensor.external_data} | {"location": location, **entries}
    del tensor.external_data[:]
    for key, text in changed.items():
        tensor.external_data.add(key=key, value=text)
    verdict = _verify(model.SerializeToString(), files)
    assert verdict.refusal is not None
    assert verdict.refusal.reason == "LOAD_FAILED"
    assert words in verdict.refusal.message


def test_file_that_the_graph_does_not_read_is_refused() -> None:
    verdict = _verify(onnx_models.linear_model(), {"weights.bin": b"anything"})
    assert verdict.refusal is not None
    assert verdict.refusal.reason == "ARTIFACT_NOT_ALLOWED"
    assert "weights.bin" in verdict.refusal.message


_CAST = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)
_NEG = helper.make_node("Neg", ["x"], ["y"])
_X, _Y = foreign.value("x", TensorProto.FLOAT, ["N", 2]), foreign.value("y", TensorProto.FLOAT, ["N", 2])
_ADD = helper.make_node("Add", ["x", "w"], ["y"])
_W = {"w": np.ones(2, np.float32)}
_CONSTANT = helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])


@pytest.mark.parametrize(
    "content",
    [
        foreign.graph([_ADD], [_X, foreign.value("w", TensorProto.FLOAT, [2])], [_Y], _W),
        foreign.graph([_ADD], [_X, foreign.value("w", TensorProto.FLOAT, [2])], [_Y], _W, ir_version=3),
        foreign.graph([_CONSTANT], [], [foreign.value("y", TensorProto.FLOAT, [2])]),
        foreign.graph([_NEG], [_X], [_Y, _Y]),
        foreign.graph([_NEG], [foreign.value("x", TensorProto.FLOAT, [0, 2])], [foreign.value("y", 1, [0, 2])]),
        foreign.graph([helper.make_node("Neg", ["a b/ü:0"], ["y"])], [foreign.value("a b/ü:0", 1, ["N"])], [_Y]),
        foreign.graph([_NEG], [foreign.value("x", TensorProto.FLOAT, [2, "batch"])], [foreign.value("y", 1, None)]),
    ],
    ids=["default", "old-ir", "no-input", "same-output-twice", "zero-size", "odd-name", "batch-second"],
)
def test_unusual_graph_is_taken_without_a_failed_sample(content: bytes) -> None:
    verdict = _verify(content)
    assert (verdict.refusal, verdict.sample_failure) == (None, "")


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (foreign.graph([_NEG], [_X], []), "UNSUPPORTED_TYPE", "no output"),
        (foreign.graph([_NEG], [_X], [foreign.value("z", 1, ["N", 2])]), "LOAD_FAILED", "(z)"),
        (foreign.graph([_NEG], [_X, _X], [_Y]), "LOAD_FAILED", "(x)"),
        (foreign.graph([], [], []), "LOAD_FAILED", ""),
        (
            foreign.graph([_NEG], [foreign.value("x", 14, ["N"])], [foreign.value("y", 14, ["N"])]),
            "UNSUPPORTED_TYPE",
            "complex64",
        ),
        (
            foreign.graph([_CAST], [foreign.value("x", TensorProto.FLOAT8E4M3FN, ["N", 2])], [_Y]),
            "UNSUPPORTED_TYPE",
            "'x' is a tensor(float8e4m3fn)",
        ),
        (b"\x08\x09", "NOT_ONNX", "no graph"),
    ],
    ids=["no-output", "never-produced", "same-input-twice", "empty", "complex", "float8", "no-graph"],
)
def test_graph_that_cannot_run_is_refused_by_name(content: bytes, reason: str, words: str) -> None:
    verdict = _verify(content)
    assert verdict.refusal is not None
    assert (verdict.refusal.reason, words in verdict.refusal.message) == (reason, True), verdict.refusal.message
