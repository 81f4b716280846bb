"""The protocol over REST: real TLS, tokens, JSON and binary data; at worst a typed error comes back."""

import asyncio
import gzip
import json
import ssl
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from servicekit.errors import InvalidArgument, Unimplemented
from services.inference.rest.codec import build_reply, parse_request
from services.inference.serving.codec import parse_inputs, requested_outputs
from services.inference.serving.replies import build_reply as build_message
from services.inference.serving.routing import Role, Route
from services.inference.serving.table import Entry, ServingTable
from tests.inference.fronts import Served, serving
from tests.inference.house import until
from tests.inference.models import columns, failing, identity
from tests.inference.test_limits import counting
from tests.support.credentials import MakeToken, bearer

_LIMIT = 1 << 20


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """Its JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """What an error says."""
        return str(self.document["error"])


@dataclass
class Client:
    """Speaks HTTP/1.1 over TLS, byte by byte: no library corrects what a test sends."""

    served: Served
    context: ssl.SSLContext
    token: str

    async def ask(
        self,
        verb: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        token: str | None = None,
    ) -> Answer:
        """Send a request; return what comes back."""
        reader, writer = await asyncio.open_connection("localhost", self.served.rest_port, ssl=self.context)
        own = {"host": "localhost", "content-length": str(len(body)), "connection": "close"}
        if token != "":
            own["authorization"] = f"Bearer {token or self.token}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**own, **(headers or {})}.items())
        try:
            writer.write(f"{verb} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
            answer = await reader.read()
        finally:
            writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *others = head.decode().split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
        return Answer(int(first.split()[1]), found, rest)

    async def infer(self, model: str, document: Any, **headers: str) -> Answer:
        """Ask for a prediction by JSON."""
        return await self.ask("POST", f"/v2/models/{model}/infer", json.dumps(document).encode(), headers)


@pytest.fixture
async def client(platform_files: Path, make_token: MakeToken) -> AsyncIterator[Client]:
    table = ServingTable()
    table.set("default", "echo", Entry({1: identity("FP32")}, aliases={"champion": 1}))
    table.set("default", "texts", Entry({1: identity("BYTES")}))
    table.set("default", "halves", Entry({1: identity("FP16")}))
    table.set("default", "columns", Entry({1: columns()}))
    table.set("default", "failing", Entry({1: failing()}))
    table.set("default", "counting", Entry({1: counting()}))
    table.set("default", "loading", Entry({}, {1: ""}))
    context = ssl.create_default_context(cafile=str(platform_files / "ca.pem"))
    token = make_token("viewer")
    async with serving(table, platform_files, bearer(token), max_message_bytes=_LIMIT) as served:
        yield Client(served, context, token)


def _echo(rows: int = 2, **more: Any) -> dict[str, Any]:
    data = [[row + column / 10 for column in range(3)] for row in range(rows)]
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 3], "data": data}], **more}


async def test_json_in_json_out(client: Client) -> None:
    answer = await client.infer("echo", _echo(id="an id"))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["lepton-provider"] == "CPUExecutionProvider"
    assert answer.headers["lepton-prediction-id"]
    told = answer.document
    assert (told["model_name"], told["model_version"], told["id"]) == ("echo", "1", "an id")
    (output,) = told["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [2, 3])
    assert np.allclose(output["data"], [0, 0.1, 0.2, 1, 1.1, 1.2])
    by_alias = await client.ask("POST", "/v2/models/echo/versions/champion/infer", json.dumps(_echo()).encode())
    assert by_alias.document["model_version"] == "1"


async def test_binary_data_in_and_out_and_mixed(client: Client) -> None:
    array = np.arange(6, dtype=np.float32)
    document = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": 24}}],
        "parameters": {"binary_data_output": True},
    }
    head = json.dumps(document).encode()
    sent = {"inference-header-content-length": str(len(head))}
    answer = await client.ask("POST", "/v2/models/echo/infer", head + array.tobytes(), sent)
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.body[:length])
    assert told["outputs"][0]["parameters"] == {"binary_data_size": 24}
    assert answer.body[length:] == array.tobytes()

    # One input in JSON and one as binary data, and each output in the other way.
    document = {
        "inputs": [
            {"name": "amount", "datatype": "FP64", "shape": [1, 1], "data": [2.5]},
            {"name": "purpose", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 7}},
        ],
        "outputs": [{"name": "purpose_out"}, {"name": "amount_out", "parameters": {"binary_data": True}}],
    }
    head = json.dumps(document).encode()
    sent = {"inference-header-content-length": str(len(head))}
    answer = await client.ask("POST", "/v2/models/columns/infer", head + b"\x03\0\0\0car", sent)
    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.body[:length])
    assert [(output["name"], output.get("data")) for output in told["outputs"]] == [
        ("purpose_out", ["car"]),
        ("amount_out", None),
    ]
    assert answer.body[length:] == np.float64(2.5).tobytes()


_INPUT: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}


async def test_texts_are_json_strings_and_halves_are_numbers(client: Client) -> None:
    texts = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1, 3], "data": ["é", "", "c"]}]}
    assert (await client.infer("texts", texts)).document["outputs"][0]["data"] == ["é", "", "c"]
    packed = {**texts["inputs"][0], "data": ["w6k=", "", "Yw=="], "parameters": {"content_type": "base64"}}
    assert (await client.infer("texts", {"inputs": [packed]})).document["outputs"][0]["data"] == ["é", "", "c"]
    halves = {"inputs": [{"name": "x", "datatype": "FP16", "shape": [1, 3], "data": [1, 2.5, "-Infinity"]}]}
    assert (await client.infer("halves", halves)).document["outputs"][0]["data"] == [1.0, 2.5, "-Infinity"]
    too_large = {"inputs": [{**halves["inputs"][0], "data": [1, 2, 70_000]}]}
    refused = await client.infer("halves", too_large)
    assert (refused.status, refused.headers["lepton-reason"]) == (400, "BAD_TENSOR")


_ABSENT: dict[str, Any] = {
    "null fields": {
        **{"id": None, "parameters": None, "outputs": None},
        "inputs": [{**_INPUT, "parameters": None}],
    },
    "empty fields": {"id": "", "parameters": {}, "outputs": [], "inputs": [{**_INPUT, "parameters": {}}]},
    "null sizes": {
        "inputs": [{**_INPUT, "parameters": {"binary_data_size": None, "content_type": None}}],
        "outputs": [{"name": "y", "parameters": {"binary_data": None}, "datatype": None, "shape": None}],
    },
    "objects of MLServer": {
        "parameters": {"headers": {"accept": "*/*"}, "content_type": "np", "extra": [1]},
        "inputs": [{**_INPUT, "parameters": {"content_type": "np", "headers": None}}],
        "fields of others": {"a": 1},
    },
    "whole numbers with a point": {"inputs": [{**_INPUT, "shape": [1.0, 3.0]}]},
    "nested data": {"inputs": [{**_INPUT, "data": [[1, 2, 3]]}]},
    "defaults of Triton's parameters": {
        "parameters": {"priority": 0, "sequence_id": 0, "sequence_start": False, "sequence_end": False, "timeout": 0},
        "inputs": [_INPUT],
    },
}


@pytest.mark.parametrize("name", _ABSENT)
async def test_what_clients_leave_out_or_add_is_harmless(client: Client, name: str) -> None:
    answer = await client.infer("echo", _ABSENT[name])
    assert answer.status == 200, answer.body
    assert answer.document["outputs"][0]["data"] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("data", [[], [[], []], None, "absent"])
async def test_tensors_without_elements_are_answered_in_json_and_as_binary_data(client: Client, data: Any) -> None:
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [0, 3]}
    sent = {}
    if data is None:
        # As KServe's client has it: a size, and no data beside it.
        tensor |= {"parameters": {"binary_data_size": 0}, "data": None}
    elif data != "absent":
        tensor["data"] = data
    body = json.dumps({"inputs": [tensor]}).encode()
    if data is None:
        sent["inference-header-content-length"] = str(len(body))
    answer = await client.ask("POST", "/v2/models/echo/infer", body, sent)
    assert answer.status == 200, answer.body
    assert (answer.document["outputs"][0]["shape"], answer.document["outputs"][0]["data"]) == ([0, 3], [])


@pytest.mark.parametrize("words", ["[NaN, Infinity, -Infinity]", '["NaN", "Infinity", "-Infinity"]'])
async def test_numbers_that_are_not_finite_go_both_ways_in_json_that_every_parser_reads(
    client: Client, words: str
) -> None:
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": %s}]}' % words.encode()
    answer = await client.ask("POST", "/v2/models/echo/infer", body)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert json.loads(answer.body, parse_constant=refuse)["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity"]
    refused = await client.ask("POST", "/v2/models/echo/infer", body.replace(words.encode(), b"[1e400, 1.0, 1.0]"))
    assert (refused.status, refused.headers["lepton-reason"]) == (400, "NOT_JSON")


async def test_head_answers_as_get_without_a_body(client: Client) -> None:
    for path in ("/v2/health/live", "/v2", "/v2/models/echo", "/v2/models/stats"):
        got, head = await client.ask("GET", path), await client.ask("HEAD", path)
        assert (head.status, head.body) == (200, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
        assert head.headers["content-length"] == got.headers["content-length"]
    assert (await client.ask("HEAD", "/v2/health/ready", token="")).status == 503
    assert (await client.ask("HEAD", "/v2/models/echo/infer")).status == 404


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_bodies_may_be_packed_both_ways(client: Client, encoding: str, pack: Any) -> None:
    body = pack(json.dumps(_echo(400)).encode())
    sent = {"content-encoding": encoding, "accept-encoding": f"br, {encoding}"}
    answer = await client.ask("POST", "/v2/models/echo/infer", body, sent)
    assert answer.headers["content-encoding"] == encoding
    unpacked = zlib.decompress(answer.body, wbits=31 if encoding == "gzip" else 15)
    assert len(json.loads(unpacked)["outputs"][0]["data"]) == 1200


async def test_what_models_and_server_say_of_themselves(client: Client) -> None:
    assert (await client.ask("GET", "/v2/health/live", token="")).document == {"live": True}
    assert (await client.ask("GET", "/v2/health/ready", token="")).status == 503
    client.served.servicer.is_ready = True
    assert (await client.ask("GET", "/v2/health/ready", token="")).status == 200
    server = (await client.ask("GET", "/v2")).document
    assert server["name"] == "lepton"
    assert "binary_tensor_data" in server["extensions"]
    found = (await client.ask("GET", "/v2/models/echo")).document
    assert (found["versions"], found["platform"]) == (["1"], "onnxruntime_onnx")
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert (await client.ask("GET", "/v2/models/echo/versions/1/ready")).document == {"name": "echo", "ready": True}
    assert (await client.ask("GET", "/v2/models/nobody/ready")).status == 503
    config = (await client.ask("GET", "/v2/models/echo/config")).document
    assert config["max_batch_size"] > 0
    await client.infer("echo", _echo())
    statistics = (await client.ask("GET", "/v2/models/echo/stats")).document["model_stats"]
    assert statistics[0]["inference_stats"]["success"]["count"] == 1
    assert len((await client.ask("GET", "/v2/models/stats")).document["model_stats"]) == 6
    index = (await client.ask("POST", "/v2/repository/index", b'{"ready": true}')).document
    assert {"name": "echo", "version": "1", "state": "READY", "reason": ""} in index
    assert "LOADING" not in {row["state"] for row in index}


async def test_who_may_not_call_is_told_so(client: Client, make_token: MakeToken) -> None:
    absent = await client.ask("GET", "/v2/models/echo", token="")
    assert (absent.status, absent.headers["www-authenticate"]) == (401, "Bearer")
    assert absent.headers["lepton-reason"] == "TOKEN_ABSENT"
    assert (await client.ask("GET", "/v2/models/echo", token="x")).status == 401
    assert (await client.ask("POST", "/v2/repository/models/echo/unload")).status == 403
    other = make_token("viewer", "other")
    assert (await client.ask("GET", "/v2/models/echo", token=other)).status == 404


_BAD: dict[str, tuple[Any, str]] = {
    "no inputs": ({}, "every input"),
    "inputs no list": ({"inputs": {}}, "expected a list"),
    "nameless input": ({"inputs": [{"data": []}]}, "name"),
    "no datatype": ({"inputs": [{**_INPUT, "datatype": ""}]}, "datatype"),
    "another datatype": ({"inputs": [{**_INPUT, "datatype": "INT8"}]}, "FP32"),
    "shape no list": ({"inputs": [{**_INPUT, "shape": 3}]}, "shape"),
    "shape of texts": ({"inputs": [{**_INPUT, "shape": ["1", 3]}]}, "shape"),
    "negative shape": ({"inputs": [{**_INPUT, "shape": [-1, 3]}]}, "shape"),
    "huge shape": ({"inputs": [{**_INPUT, "shape": [1 << 80, 3]}]}, "64-bit"),
    "another count": ({"inputs": [{**_INPUT, "data": [1, 2]}]}, "3 values"),
    "texts for numbers": ({"inputs": [{**_INPUT, "data": ["1", 2, 3]}]}, "another kind"),
    "uneven lists": ({"inputs": [{**_INPUT, "data": [[1, 2], 3]}]}, "evenly"),
    "no data": ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3]}]}, "data"),
    "binary data that is not there": (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}]},
        "12 bytes",
    ),
    "binary size no number": ({"inputs": [{**_INPUT, "parameters": {"binary_data_size": "a"}}]}, "binary_data_size"),
    "unknown output": ({"inputs": [_INPUT], "outputs": [{"name": "z"}]}, "'z'"),
    "unknown triton parameter": ({"inputs": [_INPUT], "parameters": {"triton_x": 1}}, "triton_x"),
    "datatype in lower case": ({"inputs": [{**_INPUT, "datatype": "fp32"}]}, "'fp32' (did you mean 'FP32'?)"),
    "datatype of NumPy": ({"inputs": [{**_INPUT, "datatype": "float32"}]}, "did you mean 'FP32'"),
    "null among numbers": ({"inputs": [{**_INPUT, "data": [1, None, 3]}]}, "null"),
    "number beyond FP32": ({"inputs": [{**_INPUT, "data": [1e39, 2, 3]}]}, "fits FP32"),
    "timeout no scalar": ({"inputs": [_INPUT], "parameters": {"timeout": [1]}}, "parameter 'timeout'"),
    "parameter too large": ({"inputs": [_INPUT], "parameters": {"x": 1 << 70}}, "parameter 'x'"),
    "id no text": ({"inputs": [_INPUT], "id": 7}, "id"),
    "number beyond all floats": ({"inputs": [{**_INPUT, "data": [10**400, 2, 3]}]}, "fits FP32"),
    "timeout no integer": ({"inputs": [_INPUT], "parameters": {"timeout": "soon"}}, "timeout"),
    "half a pair": ({"inputs": [{**_INPUT, "datatype": "BYTES", "data": ["\ud800", "", ""]}]}, "UTF-8"),
}


@pytest.mark.parametrize("name", _BAD)
async def test_bad_request_is_refused_by_name(client: Client, name: str) -> None:
    document, text = _BAD[name]
    answer = await client.infer("echo", document)
    assert answer.status == 400, answer.body
    assert text in answer.error


async def test_bodies_that_are_none_are_refused(client: Client) -> None:
    path = "/v2/models/echo/infer"
    for body, text in (
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "object"),
        (b"\xff\xfe", "not JSON"),
        (b'{"inputs": [], "inputs": []}', "twice"),
        (b'{"a":' * 100_000, "not JSON"),
    ):
        answer = await client.ask("POST", path, body)
        assert (answer.status, answer.headers["lepton-reason"]) == (400, "NOT_JSON"), body[:20]
        assert text in answer.error
    for length in ("-1", "9999", "x", "9" * 40):
        answer = await client.ask("POST", path, b"{}", {"inference-header-content-length": length})
        assert answer.status == 400
    answer = await client.ask("POST", path, json.dumps(_echo()).encode() + b"    !", {})
    assert answer.status == 400
    head = json.dumps(_echo()).encode()
    answer = await client.ask("POST", path, head + b"more", {"inference-header-content-length": str(len(head))})
    assert "4 bytes of binary data belong to no input" in answer.error


async def test_body_over_the_limit_is_refused_and_so_is_one_that_unpacks_to_more(client: Client) -> None:
    path = "/v2/models/echo/infer"
    answer = await client.ask("POST", path, b" " * (_LIMIT + 1))
    assert (answer.status, answer.headers["lepton-reason"]) == (413, "TOO_LARGE")
    bomb = gzip.compress(b" " * (50 * _LIMIT))
    answer = await client.ask("POST", path, bomb, {"content-encoding": "gzip"})
    assert answer.status == 413
    for encoding, body in (("br", b"x"), ("gzip", b"nothing packed"), ("gzip", gzip.compress(b"{}")[:-4])):
        answer = await client.ask("POST", path, body, {"content-encoding": encoding})
        assert (answer.status, answer.headers["lepton-reason"]) == (400, "BAD_ENCODING")


async def test_errors_have_their_status(client: Client) -> None:
    assert (await client.infer("nobody", _echo())).status == 404
    assert (await client.infer("loading", _echo())).status == 503
    assert (await client.ask("GET", "/v2/nothing")).status == 404
    assert (await client.ask("DELETE", "/v2/models/echo")).status == 404
    far_off = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [99]}]}
    failed = await client.infer("failing", far_off)
    assert (failed.status, failed.headers["lepton-reason"]) == (400, "INPUT_REJECTED")
    assert failed.error.startswith("model 'failing' does not take this input: operator Gather: indices element out of")
    ordered = await client.infer("echo", _echo(parameters={"sequence_id": 7, "sequence_start": True}))
    assert (ordered.status, ordered.headers["lepton-reason"]) == (501, "NO_SEQUENCES")
    first = await client.infer("echo", _echo(parameters={"priority": 1}))
    assert (first.status, first.headers["lepton-reason"]) == (501, "NO_PRIORITIES")
    long = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [1 << 40]}]}
    late = await client.infer("counting", {**long, "parameters": {"timeout": 200_000}})
    assert late.status == 504


async def test_load_takes_no_parameters_and_says_so(client: Client, make_token: MakeToken) -> None:
    token = make_token("developer")
    bad: list[Any] = [5, [{}], {"\ud800": 1}]
    for document in [{"parameters": parameters} for parameters in bad]:
        answer = await client.ask("POST", "/v2/repository/models/echo/load", json.dumps(document).encode(), token=token)
        assert answer.status == 400, (document, answer.body)
    refused = await client.ask(
        "POST", "/v2/repository/models/echo/load", b'{"parameters": {"config": "{}"}}', token=token
    )
    assert (refused.status, refused.headers["lepton-reason"]) == (400, "UNSUPPORTED_PARAMETER")


async def test_split_by_sticky_key_holds_over_rest_too(client: Client) -> None:
    first, second = identity("FP32", "split"), identity("FP32", "split")
    second.number, second.version = 2, "2"
    routes = {1: Route(), 2: Route(Role.TARGET, 50.0)}
    client.served.table.set("default", "split", Entry({1: first, 2: second}, routes=routes))
    versions = set()
    for key in ("a", "b", "c", "d", "e", "f", "g", "h"):
        answers = {
            (await client.infer("split", _echo(), **{"lepton-sticky-key": key})).document["model_version"]
            for _ in range(4)
        }
        assert len(answers) == 1
        versions |= answers
    assert versions == {"1", "2"}


async def test_calls_are_counted_by_route(client: Client) -> None:
    await client.infer("echo", _echo())
    labels = {"method": "POST /v2/models/{model}/infer", "code": "OK"}
    before = REGISTRY.get_sample_value("lepton_rpc_calls_total", labels) or 0
    await client.infer("echo", _echo())
    assert REGISTRY.get_sample_value("lepton_rpc_calls_total", labels) == before + 1


async def test_client_that_goes_away_ends_its_run(client: Client) -> None:
    long = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [], "data": [1 << 40]}]}
    asking = asyncio.ensure_future(client.infer("counting", long))
    model = client.served.table.find("default", "counting", "")

    async def runs(count: int) -> bool:
        return model.in_flight == count

    await until(lambda: runs(1), "the run to begin")
    asking.cancel()
    await until(lambda: runs(0), "the run to end")


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.sampled_from(["x", "FP32", "BYTES"])
)
_DOCUMENTS = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                [
                    *("inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id"),
                    *("binary_data_size", "binary_data", "classification", "timeout", "z"),
                ]
            ),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=25,
)
_MODELS = [identity(kind) for kind in ("FP32", "BYTES", "INT8", "BOOL", "UINT64")]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_DOCUMENTS, st.binary(max_size=20), st.sampled_from(_MODELS), st.booleans())
def test_no_document_is_a_fault(document: Any, binary: bytes, model: Any, near: bool) -> None:
    if near:
        # Near to a right one: the tensor's name, shape and datatype fit.
        fitting = {"name": "x", "shape": [1, 3], "datatype": next(iter(model.inputs.values())).datatype}
        document = {"inputs": [{**fitting, "data": document}]}
    head = json.dumps(document).encode()
    try:
        request, wanted = parse_request(head + binary, len(head), "echo", "")
        inputs = parse_inputs(request, model)
        names = requested_outputs(request, model)
    except (InvalidArgument, Unimplemented):
        return
    reply = build_message(request, model, names, model.run(inputs, names))
    body, length = build_reply(reply, wanted)
    assert json.loads(body[:length])["model_name"] == "echo"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), min_size=3, max_size=3), st.booleans())
def test_numbers_come_back_as_they_went(values: list[float], binary: bool) -> None:
    model = identity("FP32")
    document = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0.0, 0.0, 0.0]}],
        "parameters": {"binary_data_output": binary},
    }
    request, wanted = parse_request(json.dumps(document).encode(), None, "echo", "")
    arrays = [np.array([values], np.float32)]
    body, length = build_reply(build_message(request, model, ["y"], arrays), wanted)
    if binary:
        assert body[length:] == arrays[0].tobytes()
    else:
        # NaN and the infinities are texts, which NumPy reads.
        found = np.array(json.loads(body)["outputs"][0]["data"], np.float32)
        assert np.array_equal(found, arrays[0][0], equal_nan=True)
