"""Shapes of replies are the runtime's own: on both lanes and over REST, at the first request and at later ones."""

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.model import NUMPY_TYPES
from services.inference.serving.replies import classify, to_raw
from services.inference.serving.table import Entry, ServingTable
from tests.inference.fronts import LANES, Served, serving
from tests.inference.graph_texts import graph_of, load_text
from tests.inference.rest.test_rest import Client
from tests.support.credentials import MakeToken, bearer

_FLOATS = np.arange(24, dtype=np.float32) - 11.5
# A graph, and inputs of several requests; each is asked several times.
CASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "tokens": (
        "g (float[batch,time,4] x) => (float[tokens,4] y) <int64[2] s = {-1,4}> { y = Reshape(x, s) }",
        [{"x": _FLOATS[:12].reshape(1, 3, 4)}, {"x": _FLOATS.reshape(2, 3, 4)}, {"x": _FLOATS[:4].reshape(1, 1, 4)}],
    ),
    "condition": (
        """g (bool c, float[N,2] x) => (float[N,2] y) {
            y = If (c) <then_branch = a () => (float[N,2] p) { p = Neg(x) },
                        else_branch = b () => (float[N,2] q) { q = Identity(x) }>
        }""",
        [{"c": np.array(flag), "x": _FLOATS[:2].reshape(1, 2)} for flag in (True, False)],
    ),
    "scalars": (
        "g (int64 i, float f, bool b) => (int64 j, float h, bool c) { j = Neg(i) h = Neg(f) c = Not(b) }",
        [{"i": np.array(3), "f": np.array(2, np.float32), "b": np.array(flag)} for flag in (False, True)],
    ),
    "many outputs": (
        """g (float[N,2] x) => (float s, float[N,2] y, int64[2] n, string[N,2] t, float[2,N] w) {
            s = ReduceSum<keepdims=0>(x) y = Identity(x) n = Shape(x) t = Cast<to=8>(x) w = Transpose(x)
        }""",
        [{"x": _FLOATS[: rows * 2].reshape(rows, 2)} for rows in (3, 1, 0, 12)],
    ),
    "nothing": (
        """g (float[N,2] x) => (int64[2,M] places, float[N,0] z) <int64[1] n = {0}, int64[1] o = {1}> {
            places = NonZero(x) z = Slice(x, n, n, o)
        }""",
        [{"x": np.zeros((rows, 2), np.float32)} for rows in (2, 0)],
    ),
    "samples": ("g (float[samples] x) => (float[samples] y) { y = Abs(x) }", [{"x": _FLOATS}, {"x": _FLOATS[:0]}]),
    "constant": (
        "g (float[N,1] x) => (float[3] k, float[N,1] y) <float[3] w = {1,2,3}> { k = Identity(w) y = Neg(x) }",
        [{"x": _FLOATS[:rows].reshape(rows, 1)} for rows in (3, 1, 2)],
    ),
    "rows": (
        "g (float[N,2] x) => (float[N] y) <int64[1] a = {1}> { y = ReduceSum<keepdims=0>(x, a) }",
        [{"x": _FLOATS[: rows * 2].reshape(rows, 2)} for rows in (2, 1, 0)],
    ),
}
_DATATYPES = {np.dtype(kind): name for name, kind in NUMPY_TYPES.items()}


@pytest.fixture(params=LANES)
async def served(request: pytest.FixtureRequest, platform_files: Path, make_token: MakeToken) -> AsyncIterator[Served]:
    table = ServingTable()
    for name, (text, _) in CASES.items():
        table.set("default", name, Entry({1: load_text(text)}))
    table.set("default", "pcm", Entry({1: load_text("g (int16[samples] x) => (int16[samples] y) { y = Abs(x) }")}))
    async with serving(table, platform_files, bearer(make_token("viewer")), fast_lane=request.param) as running:
        yield running


def _request(inputs: dict[str, Any], *, is_raw: bool) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    for name, array in inputs.items():
        tensor = request.inputs.add(name=name, datatype=_DATATYPES[array.dtype], shape=array.shape)
        if is_raw:
            request.raw_input_contents.append(to_raw(tensor.datatype, array))
        else:
            field = {"f": "fp32_contents", "i": "int64_contents", "b": "bool_contents"}[array.dtype.kind]
            getattr(tensor.contents, field).extend(array.reshape(-1).tolist())
    return request


def _check(reply: pb.ModelInferResponse, expected: list[Any], *, is_raw: bool) -> None:
    for place, (output, array) in enumerate(zip(reply.outputs, expected, strict=True)):
        assert tuple(output.shape) == array.shape
        if is_raw:
            assert reply.raw_output_contents[place] == to_raw(output.datatype, array)


@pytest.mark.parametrize("name", CASES)
async def test_reply_has_the_runtimes_shapes_at_every_request(name: str, served: Served) -> None:
    text, requests = CASES[name]
    session = ort.InferenceSession(graph_of(text), providers=["CPUExecutionProvider"])
    for is_raw in (True, False):
        for inputs in [*requests, *requests, *requests]:
            reply = await served.infer(name, request=_request(inputs, is_raw=is_raw))
            _check(reply, session.run(None, inputs), is_raw=is_raw and bool(reply.raw_output_contents))


async def test_rest_has_the_runtimes_shapes_in_json_and_in_binary(
    served: Served, platform_files: Path, make_token: MakeToken
) -> None:
    context = ssl.create_default_context(cafile=str(platform_files / "ca.pem"))
    client = Client(served, context, make_token("viewer"))
    for name, (text, requests) in CASES.items():
        session = ort.InferenceSession(graph_of(text), providers=["CPUExecutionProvider"])
        for inputs in [*requests, *requests]:
            shapes = [list(array.shape) for array in session.run(None, inputs)]
            for is_binary in (False, True):
                tensors = [
                    {
                        "name": key,
                        "datatype": _DATATYPES[array.dtype],
                        "shape": array.shape,
                        "data": array.ravel().tolist(),
                    }
                    for key, array in inputs.items()
                ]
                answer = await client.infer(
                    name.replace(" ", "%20"), {"inputs": tensors, "parameters": {"binary_data_output": is_binary}}
                )
                assert answer.status == 200, (name, inputs, answer.body)
                length = int(answer.headers.get("inference-header-content-length", len(answer.body)))
                outputs = json.loads(answer.body[:length])["outputs"]
                assert [output["shape"] for output in outputs] == shapes, name


async def test_first_dimension_that_is_no_batch_is_bounded_by_bytes(served: Served) -> None:
    array = np.zeros(1_120_000, np.int16)
    reply = await served.infer("pcm", request=_request({"x": array}, is_raw=True))
    assert tuple(reply.outputs[0].shape) == array.shape


async def test_classification_of_one_value_a_row_gives_one_class_a_row(served: Served) -> None:
    for _ in range(2):
        request = _request({"x": np.array([[1, 2], [3, 4]], np.float32)}, is_raw=True)
        request.outputs.add(name="y").parameters["classification"].int64_param = 2
        reply = await served.infer("rows", request=request)
        assert list(reply.outputs[0].shape) == [2, 1]


def test_classification_of_classes_alone_and_of_a_single_value() -> None:
    assert classify(np.array([1.0, 3.0, 2.0]), 2, ()).tolist() == ["3.000000:1", "2.000000:2"]
    assert classify(np.array([1.0, 3.0]), 2, (), is_by_row=True).tolist() == [["1.000000:0"], ["3.000000:0"]]
    assert classify(np.array(7), 1, ()).tolist() == ["7:0"]
