"""Requests are checked as the protocol says, each refusal naming model, tensor, expected and got; replies are exact."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from servicekit.errors import InvalidArgument, Unimplemented
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.codec import (
    TYPED_FIELDS,
    element_count,
    parse_inputs,
    requested_outputs,
    timeout_seconds,
)
from services.inference.serving.model import NUMPY_TYPES
from services.inference.serving.replies import build_reply, classify, to_raw
from tests.inference.models import columns, identity

ECHO = {datatype: identity(datatype) for datatype in (*NUMPY_TYPES, "BYTES")}
COLUMNS = columns()

_shapes = st.tuples(st.integers(0, 4), st.just(3))
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def _raw(datatype: str, array: Any, name: str = "x") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="echo", id="an id", raw_input_contents=[to_raw(datatype, array)])
    request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    return request


def _typed(datatype: str, array: Any) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="echo")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=array.shape)
    values = [value.encode() if isinstance(value, str) else value for value in array.reshape(-1).tolist()]
    getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(values)
    return request


def _arrays(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BYTES":
        return arrays.arrays(object, _shapes, elements=_texts)
    if datatype == "BF16":
        return arrays.arrays(np.int8, _shapes).map(lambda found: found.astype(NUMPY_TYPES["BF16"]))
    if datatype == "FP16":
        # Within bounds: without, most that is drawn rounds to an infinity and is drawn anew.
        return arrays.arrays(np.float16, _shapes, elements=st.floats(-1000, 1000, width=16))
    floats = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else {}
    return arrays.arrays(NUMPY_TYPES[datatype], _shapes, elements=floats or None)


@pytest.mark.parametrize("datatype", ECHO)
@settings(max_examples=25)
@given(data=st.data())
def test_raw_tensors_arrive_as_they_were(datatype: str, data: st.DataObject) -> None:
    array = data.draw(_arrays(datatype))
    request = _raw(datatype, array)
    found = parse_inputs(request, ECHO[datatype])["x"]
    assert np.array_equal(found, array)
    assert found.shape == array.shape
    reply = build_reply(request, ECHO[datatype], ["y"], [array])
    assert list(reply.raw_output_contents) == list(request.raw_input_contents)
    assert (reply.id, reply.model_version, reply.outputs[0].datatype) == ("an id", "1", datatype)


@pytest.mark.parametrize("datatype", TYPED_FIELDS)
@settings(max_examples=25)
@given(data=st.data())
def test_typed_tensors_arrive_as_they_were_and_are_mirrored(datatype: str, data: st.DataObject) -> None:
    array = data.draw(_arrays(datatype))
    request = _typed(datatype, array)
    assert np.array_equal(parse_inputs(request, ECHO[datatype])["x"], array)
    reply = build_reply(request, ECHO[datatype], ["y"], [array])
    assert reply.outputs[0].contents == request.inputs[0].contents
    assert not reply.raw_output_contents
    tritons = build_reply(request, ECHO[datatype], ["y"], [array], typed_mirrors=False)
    assert list(tritons.raw_output_contents) == [to_raw(datatype, array)]


@settings(max_examples=300)
@given(
    st.binary(max_size=200),
    st.lists(st.integers(-3, 2**62), max_size=4),
    st.sampled_from(["x", "z", ""]),
    st.sampled_from(["BYTES", "FP32", "BF16", "FP99", ""]),
)
def test_no_bytes_crash_the_parser(content: bytes, shape: list[int], name: str, datatype: str) -> None:
    request = pb.ModelInferRequest(raw_input_contents=[content])
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    for model in (ECHO["BYTES"], ECHO["FP32"]):
        try:
            parse_inputs(request, model)
        except InvalidArgument as error:
            refusal = error
            assert refusal.metadata["model"] == "echo"


def test_bytes_need_not_be_utf8() -> None:
    array = np.array([[b"\xff\xfe", b"", b"ok"]], dtype=object)
    found = parse_inputs(_raw("BYTES", array), ECHO["BYTES"])["x"]
    assert found[0, 0] == b"\xff\xfe"


def _refusal(request: pb.ModelInferRequest, model: Any = None) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as refusal:
        parse_inputs(request, model or ECHO["FP32"])
        requested_outputs(request, model or ECHO["FP32"])
    return refusal.value


FLOATS = np.zeros((2, 3), dtype=np.float32)


def _changed(**changes: Any) -> pb.ModelInferRequest:
    request = _raw("FP32", FLOATS)
    for name, value in changes.items():
        if name == "shape":
            del request.inputs[0].shape[:]
            request.inputs[0].shape.extend(value)
        else:
            setattr(request.inputs[0], name, value)
    return request


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (_changed(name="z"), "expected inputs x, got one that is unknown"),
        (_changed(datatype="FP64"), "expected datatype FP32, got FP64"),
        (_changed(datatype="FP99"), "expected datatype FP32, got the unknown datatype 'FP99'"),
        (_changed(shape=[2, 4]), "expected shape [-1, 3], got [2, 4]"),
        (_changed(shape=[6]), "expected shape [-1, 3], got [6]"),
        (_changed(shape=[-1, 3]), "got [-1, 3]"),
        (_changed(shape=[2**62, 3]), "expected at most 1048576 rows, got 4611686018427387904"),
        (_changed(shape=[1, 3]), "expected 12 bytes for shape [1, 3], got 24"),
        (pb.ModelInferRequest(), "expected every input of the model, got no x"),
    ],
)
def test_tensor_that_does_not_fit_is_refused(request_: pb.ModelInferRequest, text: str) -> None:
    error = _refusal(request_)
    assert text in error.message
    assert "model 'echo'" in error.message


def test_shape_whose_size_overflows_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="elements"):
        element_count((1, 2**62), ECHO["FP32"].inputs["x"], ECHO["FP32"])


def test_input_that_stands_twice_is_refused() -> None:
    request = _raw("FP32", FLOATS)
    request.inputs.add(name="x", datatype="FP32", shape=[2, 3])
    request.raw_input_contents.append(to_raw("FP32", FLOATS))
    assert "stands twice" in _refusal(request).message


def test_each_raw_input_has_one_entry_and_no_typed_contents() -> None:
    request = _raw("FP32", FLOATS)
    request.raw_input_contents.append(b"")
    assert "one raw_input_contents entry per input (1), got 2" in _refusal(request).message
    request = _raw("FP32", FLOATS)
    request.inputs[0].contents.fp32_contents.append(1.0)
    assert "typed contents beside them" in _refusal(request).message


def test_typed_contents_are_those_of_the_datatype_and_of_the_shape() -> None:
    request = _typed("FP32", FLOATS)
    request.inputs[0].contents.int64_contents.append(1)
    assert "expected fp32_contents alone, got int64_contents, fp32_contents" in _refusal(request).message
    request = _typed("FP32", FLOATS)
    request.inputs[0].contents.fp32_contents.append(1.0)
    assert "expected 6 values for shape [2, 3], got 7" in _refusal(request).message
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="FP16", shape=[1, 3])
    assert "raw_input_contents for FP16" in _refusal(request, ECHO["FP16"]).message


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("INT16", -32769), ("UINT8", 256), ("UINT16", 65536)])
def test_small_integers_are_range_checked(datatype: str, value: int) -> None:
    request = pb.ModelInferRequest()
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, 3])
    getattr(tensor.contents, TYPED_FIELDS[datatype]).extend([0, 0, value])
    assert f"values that fit {datatype}" in _refusal(request, ECHO[datatype]).message


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<I", 5) + b"ab",
        struct.pack("<I", 0) * 2,
        struct.pack("<I", 0) * 3 + b"x",
        struct.pack("<I", 0) * 4,
        struct.pack("<I", 2**32 - 1) + b"a" * 20,
    ],
)
def test_length_prefixes_are_checked_against_bounds(content: bytes) -> None:
    request = pb.ModelInferRequest(raw_input_contents=[content])
    request.inputs.add(name="x", datatype="BYTES", shape=[1, 3])
    assert "3 length-prefixed values" in _refusal(request, ECHO["BYTES"]).message


def test_unknown_output_and_unknown_triton_parameter_are_refused() -> None:
    request = _raw("FP32", FLOATS)
    request.outputs.add(name="nope")
    assert "expected outputs y, got one that is unknown" in _refusal(request).message
    request = _raw("FP32", FLOATS)
    request.parameters["triton_nope"].bool_param = True
    assert _refusal(request).reason == "UNKNOWN_PARAMETER"
    request = _raw("FP32", FLOATS)
    request.parameters["my_own"].string_param = "passes"
    assert "x" in parse_inputs(request, ECHO["FP32"])


def _columns(amount: list[float], purpose: list[str]) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="columns")
    request.inputs.add(name="amount", datatype="FP64", shape=[len(amount), 1])
    request.raw_input_contents.append(to_raw("FP64", np.array(amount).reshape(-1, 1)))
    request.inputs.add(name="purpose", datatype="BYTES", shape=[len(purpose), 1])
    request.raw_input_contents.append(to_raw("BYTES", np.array(purpose, dtype=object).reshape(-1, 1)))
    return request


def test_missing_values_are_refused_where_training_had_none() -> None:
    assert "NaN" in _refusal(_columns([np.nan], ["car"]), COLUMNS).message
    assert "an empty text" in _refusal(_columns([1.0], [""]), COLUMNS).message
    assert len(parse_inputs(_columns([np.nan], [""]), columns(nullable=True))) == 2


def test_infinity_is_refused_for_columns_of_training_alone() -> None:
    assert "an infinity" in _refusal(_columns([np.inf], ["car"]), columns(nullable=True)).message
    for datatype in ("FP16", "FP32", "FP64"):
        array = np.array([[np.inf, -np.inf, np.nan]], dtype=NUMPY_TYPES[datatype])
        found = parse_inputs(_raw(datatype, array), ECHO[datatype])["x"]
        assert np.array_equal(found, array, equal_nan=True)


def test_what_is_empty_beside_raw_contents_is_harmless() -> None:
    request = _raw("FP32", np.ones((2, 3), np.float32))
    request.inputs[0].contents.SetInParent()
    assert parse_inputs(request, ECHO["FP32"])["x"].shape == (2, 3)
    request.inputs[0].contents.fp32_contents.append(1.0)
    assert "raw_input_contents alone" in _refusal(request).message


def test_tensors_without_elements_need_no_bytes() -> None:
    model = columns()
    request = pb.ModelInferRequest()
    request.inputs.add(name="amount", datatype="FP64", shape=[0, 1])
    request.inputs.add(name="purpose", datatype="BYTES", shape=[0, 1])
    for contents in ([b"", b""], []):
        request.raw_input_contents[:] = contents
        assert [array.shape for array in parse_inputs(request, model).values()] == [(0, 1), (0, 1)]


def test_bytes_that_are_no_text_may_come_in_base64_as_mlserver_has_it() -> None:
    packed = np.array([["w6k=", "", "Yw=="]], dtype=object)
    for request in (_raw("BYTES", packed), _typed("BYTES", packed)):
        request.inputs[0].parameters["content_type"].string_param = "base64"
        assert parse_inputs(request, ECHO["BYTES"])["x"].tolist() == [["é", "", "c"]]
    request.inputs[0].contents.bytes_contents[0] = b"!"
    with pytest.raises(InvalidArgument, match="base64"):
        parse_inputs(request, ECHO["BYTES"])


def test_a_request_without_any_tensor_gets_a_raw_reply() -> None:
    array = np.ones((2, 3), np.float32)
    assert build_reply(pb.ModelInferRequest(), ECHO["FP32"], ["y"], [array]).raw_output_contents
    assert not build_reply(_typed("FP32", array), ECHO["FP32"], ["y"], [array]).raw_output_contents


@pytest.mark.parametrize(
    ("name", "field", "value", "kind"),
    [
        ("sequence_id", "int64_param", 7, Unimplemented),
        ("sequence_id", "string_param", "a", Unimplemented),
        ("priority", "uint64_param", 1, Unimplemented),
        ("priority", "string_param", "high", InvalidArgument),
        ("triton_x", "bool_param", True, InvalidArgument),
    ],
)
def test_parameters_of_the_protocol_are_obeyed_or_refused(name: str, field: str, value: Any, kind: Any) -> None:
    request = _raw("FP32", np.ones((1, 3), np.float32))
    setattr(request.parameters[name], field, value)
    with pytest.raises(kind, match=name):
        parse_inputs(request, ECHO["FP32"])


def test_timeout_is_microseconds() -> None:
    request = pb.ModelInferRequest()
    assert timeout_seconds(request) is None
    for field in ("int64_param", "uint64_param"):
        setattr(request.parameters["timeout"], field, 1500)
        assert timeout_seconds(request) == 0.0015
    request.parameters["timeout"].double_param = 1500.0
    assert timeout_seconds(request) == 0.0015
    request.parameters["timeout"].Clear()
    assert timeout_seconds(request) is None
    request.parameters["timeout"].int64_param = 0
    assert timeout_seconds(request) is None
    for field, value in (("int64_param", -1), ("string_param", "1500"), ("double_param", 1.5), ("bool_param", True)):
        setattr(request.parameters["timeout"], field, value)
        with pytest.raises(InvalidArgument, match="microseconds"):
            timeout_seconds(request)


def test_unknown_category_follows_the_models_rule() -> None:
    assert len(parse_inputs(_columns([1.0], ["boat"]), COLUMNS)) == 2
    message = _refusal(_columns([1.0], ["boat"]), columns("error")).message
    assert "expected a category that training saw" in message and "boat" not in message


def test_batches_of_inputs_must_agree() -> None:
    assert "a batch of 2" in _refusal(_columns([1.0, 2.0], ["car"]), COLUMNS).message


def test_half_floats_are_always_raw() -> None:
    array = np.ones((1, 3), dtype=np.float16)
    reply = build_reply(pb.ModelInferRequest(), ECHO["FP16"], ["y"], [array])
    assert list(reply.raw_output_contents) == [array.tobytes()]


def test_classification_gives_the_largest_first() -> None:
    array = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]])
    assert classify(array, 2, ("a", "b", "c")).tolist() == [
        ["0.700000:1:b", "0.200000:2:c"],
        ["0.500000:0:a", "0.250000:1:b"],
    ]
    assert classify(array, 9, ()).shape == (2, 3)
