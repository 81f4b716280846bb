"""ONNX Runtime's own texts, of this version, in short."""

import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from servicekit.onnx_text import last_line, load_problem
from tests.support import onnx_models


def _changed(**fields: int) -> bytes:
    model = onnx.ModelProto.FromString(onnx_models.linear_model())
    for name, value in fields.items():
        if name == "opset":
            model.opset_import[0].version = value
        elif name == "ml_opset":
            model.opset_import[1].version = value
        else:
            setattr(model, name, value)
    return bytes(model.SerializeToString())


def _identity(kind: int) -> bytes:
    values = [helper.make_tensor_value_info(name, kind, ["N"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _without_outputs_source() -> bytes:
    model = onnx.ModelProto.FromString(onnx_models.linear_model())
    model.graph.output[0].name = "missing"
    return bytes(model.SerializeToString())


def _error(content: bytes) -> str:
    ort.set_default_logger_severity(4)
    with pytest.raises(Exception) as refused:  # noqa: PT011  (its exceptions have no base class)
        ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return str(refused.value)


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (_changed(ir_version=99), "IR_TOO_NEW", ("version: 99", "max supported IR version: ")),
        (_changed(opset=99), "OPSET_TOO_NEW", ("opset 99", "ai.onnx", "till opset ")),
        (_changed(ml_opset=99), "OPSET_TOO_NEW", ("opset 99", "ai.onnx.ml", "till opset ")),
        (onnx_models.custom_domain_model(), "LOAD_FAILED", ("RunAnything", "com.example.evil", "standard operators")),
        (_identity(TensorProto.COMPLEX64), "UNSUPPORTED_TYPE", ("complex64",)),
        (_without_outputs_source(), "LOAD_FAILED", ("Graph output (missing) does not exist in the graph.",)),
        (onnx_models.external_data_model("weights.bin"), "LOAD_FAILED", ('"weights.bin"',)),
        (b"no model", "NOT_ONNX", ("protobuf parsing failed",)),
        (b"", "NOT_ONNX", ("No graph was found",)),
    ],
    ids=["ir", "opset", "ml-opset", "domain", "complex", "no-source", "external", "text", "empty"],
)
def test_load_error_keeps_its_end_and_names_no_source(content: bytes, reason: str, words: tuple[str, ...]) -> None:
    found, message = load_problem(_error(content))
    assert found == reason, message
    for word in words:
        assert word in message
    assert "onnxruntime::" not in message
    assert "/" not in message.replace("function/op", "")
    assert len(message) < 500


def test_signatures_with_nested_parentheses_are_cut() -> None:
    source = "/a/b.cc:12 std::unique_ptr<int> (anonymous namespace)::make(int, std::function<void(int)>) "
    assert last_line(f"[ONNXRuntimeError] : 1 : FAIL : begins {source}const it went wrong") == "begins it went wrong"
    assert last_line("x.h:3 f::operator()(int) wrong (a)") == "wrong (a)"
    assert last_line("a.cc:3 void f(int) const [with T = X<int[2]>; U = V] wrong [a]") == "wrong [a]"
    assert last_line("Node '/model/layer.0/Add' failed") == "Node '/model/layer.0/Add' failed"
    assert last_line("") == "no reason given"


def test_long_text_keeps_its_end() -> None:
    found = last_line("x" * 1000 + " the end")
    assert len(found) == 300
    assert found.endswith("the end")
