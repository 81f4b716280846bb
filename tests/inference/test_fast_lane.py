"""The fast lane's own: requests recognised by their beginning, callers that go, never read, or come while it drains."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.errors import LeptonError
from services.inference.fastlane.heads import Heads
from services.inference.fastlane.prediction_call import PredictionCall
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.batches import Batch, Work, find_form
from services.inference.serving.codec import parse_inputs, requested_outputs
from services.inference.serving.forwarding import MODEL_INFER
from services.inference.serving.model import NUMPY_TYPES, LoadedModel
from services.inference.serving.replies import build_reply, to_raw
from services.inference.serving.table import Entry, ServingTable
from tests.inference.fronts import LANES, Served, ones, serving
from tests.inference.house import refused, until
from tests.inference.models import columns, identity
from tests.inference.test_limits import _count, counting
from tests.support.credentials import MakeToken, bearer, public_channel
from tests.support.living import living

_MODELS = {kind: identity(kind) for kind in (*NUMPY_TYPES, "BYTES")}
_COLUMNS = columns("error", nullable=True)


def _request(model: LoadedModel, arrays: list[Any], request_id: str, version: str = "") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model.deployment, model_version=version, id=request_id)
    for spec, array in zip(model.inputs.values(), arrays, strict=True):
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        request.raw_input_contents.append(to_raw(spec.datatype, array))
    return request


def _learn(heads: Heads, model: LoadedModel, request: pb.ModelInferRequest) -> bytes:
    data = request.SerializeToString()
    form, rows = find_form(model, tuple(requested_outputs(request, model)), parse_inputs(request, model))
    heads.learn("default", data, request, form, rows, 0)
    return data


def _recognised(heads: Heads, data: bytes) -> tuple[Work, bytes] | None:
    """Run a request if it is recognised; return it with its reply's bytes, which are empty where it failed."""
    found = heads.find("default", data)
    if found is None:
        return None
    head, request_id, position = found
    payloads = head.payloads(data, position)
    if payloads is None:
        return None
    assert head.form is not None
    work = Work(head.form, payloads, head.rows, lambda _: None, is_checked=False)
    Batch([work]).run()
    return work, head.reply(work, request_id) if work.error is None else b""


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_recognised_request_is_answered_as_one_that_is_parsed(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(_MODELS)))
    model, heads = _MODELS[kind], Heads()
    rows = data.draw(st.integers(0, 40))
    _learn(heads, model, _request(model, [_array(kind, rows, 0)], "an id"))
    asked = _request(model, [_array(kind, rows, 7)], data.draw(st.text(max_size=200)))
    raw = asked.SerializeToString()
    recognised = _recognised(heads, raw)
    if recognised is None:
        # An id that takes two bytes to tell its length, or is more than ASCII, is parsed.
        assert len(asked.id.encode()) > 127 or not asked.id.isascii()
        return
    names = requested_outputs(asked, model)
    expected = build_reply(asked, model, names, model.run(parse_inputs(asked, model), names))
    assert pb.ModelInferResponse.FromString(recognised[1]) == expected


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_is_recognised_says_the_same_to_the_parser(data: st.DataObject) -> None:
    """Bytes that were tampered with are recognised only if the parser reads, and takes, the same from them."""
    heads = Heads()
    model = _COLUMNS
    texts = np.array([["car"], [""]], dtype=object)
    raw = bytearray(_learn(heads, model, _request(model, [np.array([[1.0], [np.nan]]), texts], "an id", "1")))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw)))
        cut = data.draw(st.integers(0, 3))
        raw[place : place + cut] = data.draw(st.binary(max_size=3))
    recognised = _recognised(heads, bytes(raw))
    if recognised is None:
        return
    work = recognised[0]
    # The parser reads it: this raises where it does not.
    request = pb.ModelInferRequest.FromString(bytes(raw))
    try:
        inputs = parse_inputs(request, model)
        refusal = ""
    except LeptonError as error:
        inputs, refusal = {}, error.reason
    # Infinities are looked for in the batch, and refused there alike.
    assert (work.error.reason if work.error else "") == refusal
    if refusal:
        return
    for found, array in zip(work.arrays(), inputs.values(), strict=True):
        assert np.array_equal(found, array, equal_nan=found.dtype.kind == "f")


def _array(kind: str, rows: int, first: int) -> Any:
    numbers = np.arange(first, first + rows * 3).reshape(rows, 3) % 100
    if kind == "BYTES":
        return np.array([f"é{number}" for number in numbers.reshape(-1)], dtype=object).reshape(rows, 3)
    return numbers.astype(NUMPY_TYPES[kind])


@pytest.fixture(params=LANES)
async def served(request: pytest.FixtureRequest, platform_files: Path, make_token: MakeToken) -> AsyncIterator[Served]:
    table = ServingTable()
    table.set("default", "echo", Entry({1: identity("FP32")}))
    table.set("default", "columns", Entry({1: columns()}))
    table.set("default", "counting", Entry({1: counting()}))
    async with serving(
        table, platform_files, bearer(make_token("viewer")), fast_lane=request.param, max_message_bytes=4 << 20
    ) as running:
        yield running


async def test_swapped_model_answers_from_the_next_request_on(served: Served) -> None:
    for number in (1, 2, 3):
        model = identity("FP32")
        model.number, model.version = number, str(number)
        served.table.set("default", "echo", Entry({number: model}))
        for _ in range(3):
            assert (await served.infer("echo")).model_version == str(number)
    served.table.set("default", "echo", Entry())
    await refused(served.infer("echo"), grpc.StatusCode.NOT_FOUND)


async def test_model_that_is_taken_away_is_not_kept_by_requests_that_were_recognised(served: Served) -> None:
    model = served.table.find("default", "echo", "")
    for _ in range(3):
        await served.infer("echo", request=_request(model, [np.ones((2, 3), np.float32)], ""))
    kept = weakref.ref(model)
    del model
    served.table.set("default", "echo", Entry())

    async def is_gone() -> bool:
        gc.collect()
        return kept() is None

    await until(is_gone, "the model to go")


async def test_recognised_request_is_checked_like_any_other(served: Served) -> None:
    model = columns()

    async def ask(amount: float, purpose: str) -> pb.ModelInferResponse:
        arrays = [np.array([[amount]]), np.array([[purpose]], dtype=object)]
        return await served.infer("columns", request=_request(model, arrays, ""))

    for _ in range(3):
        assert (await ask(1.0, "car")).raw_output_contents[1] == b"\x03\0\0\0car"
    await refused(ask(float("inf"), "car"), grpc.StatusCode.INVALID_ARGUMENT, "finite")
    await refused(ask(float("nan"), "car"), grpc.StatusCode.INVALID_ARGUMENT, "NaN")
    await refused(ask(1.0, ""), grpc.StatusCode.INVALID_ARGUMENT, "an empty text")
    assert (await ask(2.0, "house")).model_version == "1"


async def test_many_at_once_get_each_its_own(served: Served) -> None:
    async def ask(place: int) -> None:
        array = np.full((1 + place % 3, 3), place, dtype=np.float32)
        reply = await served.infer("echo", request=_request(identity("FP32"), [array], str(place)))
        assert reply.id == str(place)
        assert reply.raw_output_contents[0] == array.tobytes()

    await asyncio.gather(*(ask(place) for place in range(300)))


async def test_caller_that_goes_away_ends_its_run(served: Served) -> None:
    asking = asyncio.ensure_future(served.infer("counting", request=_count(1 << 40)))
    model = served.table.find("default", "counting", "")

    async def runs(count: int) -> bool:
        return model.in_flight == count

    await until(lambda: runs(1), "the run to begin")
    asking.cancel()
    await until(lambda: runs(0), "the run to end")
    assert (await served.infer("counting", request=_count(1))).model_version == "1"


async def test_call_without_a_deadline_ends_with_the_servers(platform_files: Path, make_token: MakeToken) -> None:
    table = ServingTable()
    table.set("default", "counting", Entry({1: counting()}))
    for lane in (True, False):
        async with serving(
            table, platform_files, bearer(make_token("viewer")), fast_lane=lane, call_timeout_seconds=0.3
        ) as running:
            await refused(
                running.infer("counting", request=_count(1 << 40)), grpc.StatusCode.DEADLINE_EXCEEDED, "longer than"
            )


async def test_call_whose_time_is_over_while_its_answer_is_put_together_is_answered_once(
    platform_files: Path, make_token: MakeToken
) -> None:
    table, model = ServingTable(), identity("FP32")
    # Left to a thread, and typed: the answer takes about as long as the call may.
    model.run_seconds = 1.0
    table.set("default", "echo", Entry({1: model}))
    token, seconds = bearer(make_token("viewer")), 0.03
    async with serving(
        table, platform_files, token, threads=1, call_timeout_seconds=seconds, max_unread_bytes=1 << 20
    ) as running:
        codes = set[grpc.StatusCode]()
        rows, rounds = 10_000, 0
        while rounds < 60 or not {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED} <= codes:
            rounds += 1
            request = pb.ModelInferRequest()
            contents = request.inputs.add(name="x", datatype="FP32", shape=[rows, 3]).contents
            contents.fp32_contents.extend([1.0] * (rows * 3))
            asking = [running.infer("echo", request=request) for _ in range(6)]
            for found in await asyncio.gather(*asking, return_exceptions=True):
                codes.add(found.code() if isinstance(found, grpc.aio.AioRpcError) else grpc.StatusCode.OK)
            # So that some are late, and some are not: whatever this machine does in that time comes up.
            rows = rounds % 7 * 100 + 1 if rows > 100_000 else rows + 10_000
        await asyncio.sleep(10 * seconds)
        # What was sent twice would count as unread for ever.
        assert (await running.infer("echo", timeout=120)).model_version == "1"


@pytest.mark.parametrize("model", ["counting", "echo"])
async def test_answered_call_is_let_go_without_the_garbage_collector(served: Served, model: str) -> None:
    request = _count(1) if model == "counting" else ones()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            await asyncio.gather(*(served.infer(model, request=request) for _ in range(10)))
        held = sum(1 for kind in (PredictionCall, Work, Batch) for _ in living(kind))
    finally:
        gc.enable()
    # What was taken last may still be held.
    assert held < 15


async def test_what_runs_at_a_drain_is_answered_and_what_comes_is_not_taken(served: Served) -> None:
    asking = asyncio.ensure_future(served.infer("counting", request=_count(1_000_000)))
    model = served.table.find("default", "counting", "")

    async def runs() -> bool:
        return model.in_flight == 1 or asking.done()

    await until(runs, "the run to begin")
    await served.server.drain(120.0)
    assert (await asking).model_version == "1"
    await refused(served.infer("echo", timeout=120), grpc.StatusCode.UNAVAILABLE)


_ENDS_WHILE_IT_ANSWERS = """
import asyncio, sys
from pathlib import Path
import numpy as np
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.table import Entry, ServingTable
from tests.inference.fronts import serving
from tests.inference.models import identity

async def end(credentials, metadata, after):
    table, model = ServingTable(), identity("FP32")
    # Left to the threads, and large: the answers take long to put together.
    model.run_seconds = 1.0
    table.set("default", "echo", Entry({1: model}))
    array = np.zeros((1_000_000, 3), np.float32)
    request = pb.ModelInferRequest(raw_input_contents=[array.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=array.shape)
    async with serving(table, credentials, metadata, rest_port=None, max_message_bytes=64 << 20) as served:
        calls = [asyncio.ensure_future(served.infer("echo", request=request)) for _ in range(6)]
        await asyncio.sleep(after)
        await served.server.drain(0.0)
        await asyncio.gather(*calls, return_exceptions=True)

for place in range(16):
    asyncio.run(end(Path(sys.argv[1]), (("authorization", "Bearer " + sys.argv[2]),), 0.02 * place))
print("ended")
"""


async def test_process_outlives_a_drain_whose_time_is_over_while_threads_answer(
    platform_files: Path, make_token: MakeToken
) -> None:
    command = [sys.executable, "-c", _ENDS_WHILE_IT_ANSWERS, str(platform_files), make_token("viewer")]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.stdout.endswith("ended\n"), ended.stderr[-1000:]


_NEVER_READS = """
import os, signal, sys
import grpc
port, ca, token, request = sys.argv[1:]
with open(ca, "rb") as file:
    credentials = grpc.ssl_channel_credentials(file.read())
options = [("grpc.max_receive_message_length", 1 << 30), ("grpc.max_send_message_length", 1 << 30)]
channel = grpc.secure_channel(f"localhost:{port}", credentials, options)
grpc.channel_ready_future(channel).result(120)
ask = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
with open(request, "rb") as file:
    content = file.read()
calls = [ask.future(content, metadata=(("authorization", "Bearer " + token),)) for _ in range(40)]
calls[0].result(120)
print("asked", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


async def test_client_that_never_reads_holds_nobody_up(
    served: Served, platform_files: Path, tmp_path: Path, make_token: MakeToken
) -> None:
    array = np.zeros((80_000, 3), dtype=np.float32)
    request = _request(identity("FP32"), [array], "")
    request.model_name = "echo"
    (tmp_path / "request").write_bytes(request.SerializeToString())
    arguments = [str(served.server.port), str(platform_files / "ca.pem"), make_token("viewer")]
    command = [sys.executable, "-c", _NEVER_READS, *arguments, str(tmp_path / "request")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert await asyncio.to_thread(client.stdout.readline) == "asked\n"
        async with public_channel(served.server.port, platform_files):
            for _ in range(20):
                assert (await served.infer("echo", timeout=120)).model_version == "1"
        os.kill(client.pid, signal.SIGKILL)
    assert (await served.infer("echo", timeout=120)).model_version == "1"


async def test_client_that_leaves_much_unread_is_refused_alone_until_it_reads(
    platform_files: Path, make_token: MakeToken
) -> None:
    table = ServingTable()
    table.set("default", "echo", Entry({1: identity("FP32")}))
    token = bearer(make_token("viewer"))
    array = np.zeros((80_000, 3), dtype=np.float32)
    request = _request(identity("FP32"), [array], "")
    request.model_name = "echo"
    async with (
        serving(table, platform_files, token, max_unread_bytes=2 << 20) as running,
        # A stream's replies are taken off the wire when they are asked for, but for a window's worth.
        public_channel(running.server.port, platform_files, [("grpc.http2.bdp_probe", 0)]) as channel,
    ):
        ask: Any = channel.unary_stream(MODEL_INFER)
        content = request.SerializeToString()
        unread = [ask(content, metadata=token) for _ in range(3)]
        for call in unread:
            await call.initial_metadata()
        with pytest.raises(grpc.aio.AioRpcError, match="wait for you to read") as caught:
            async for _ in ask(content, metadata=token):
                pass
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await running.infer("echo")).model_version == "1"
        for call in unread:
            assert len([reply async for reply in call]) == 1
        assert len([reply async for reply in ask(content, metadata=token)]) == 1


async def test_port_without_tls_takes_tokens_on_loopback_alone(platform_files: Path, make_token: MakeToken) -> None:
    table = ServingTable()
    table.set("default", "echo", Entry({1: identity("FP32")}))
    port = 20_000 + os.getpid() % 20_000
    token = bearer(make_token("viewer"))
    async with (
        serving(table, platform_files, token, plaintext_port=port) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        raw = pb.ModelInferRequest(model_name="nobody").SerializeToString()
        await refused(call(raw, metadata=token), grpc.StatusCode.NOT_FOUND)
        await refused(call(raw), grpc.StatusCode.UNAUTHENTICATED)
        assert running.server.port != port
    with pytest.raises(ValueError, match="without TLS"):
        async with serving(table, platform_files, token, plaintext_port=port, host="0.0.0.0"):
            pass
