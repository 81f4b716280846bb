"""Answers in a crowd equal lone answers: 16 callers, every graph of the zoo, generated graphs and dynamic int8."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from lepton.v1 import registry_pb2
from services.inference.independence import analyse, read_model
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.plans.build import build
from services.inference.plans.candidates import find_candidate
from services.inference.serving.batches import find_form
from services.inference.serving.loading import load_model
from services.inference.serving.model import Array, LoadedModel
from services.inference.serving.replies import to_raw
from services.inference.serving.table import Entry, ServingTable
from tests.inference.fronts import LANES, Served, serving
from tests.inference.graph_texts import graph_of
from tests.inference.independence.test_generated import generated
from tests.inference.independence.zoo import INDEPENDENT, MIXED, Feeds, graph, rows_of, same, session_of
from tests.inference.plans.graphs import layers
from tests.inference.test_batcher import Asked
from tests.support.credentials import MakeToken, bearer

_CALLERS, _REQUESTS = 16, 3
_KINDS = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}


def _dynamic_int8() -> bytes:
    candidate = find_candidate("int8_dynamic")
    assert candidate is not None
    return build(candidate, layers(width=64), [])


def _graphs() -> dict[str, bytes]:
    random = np.random.default_rng(3)
    made = {f"generated {place}": graph_of(generated(random), 13) for place in range(20)}
    return {**{name: graph(name) for name in (*INDEPENDENT, *MIXED)}, **made, "dynamic int8": _dynamic_int8()}


_GRAPHS = _graphs()
# These answer otherwise each time, whoever asks: they draw, or keep what they saw.
_RANDOM = ("random", "normalised as in training")


def _load(name: str) -> LoadedModel | None:
    try:
        return load_model(name, registry_pb2.Version(number=1, digest=name), _GRAPHS[name])
    except Exception:
        # ONNX Runtime does not load some that are only analysed.
        return None


@pytest.fixture(params=LANES)
async def served(request: pytest.FixtureRequest, platform_files: Path, make_token: MakeToken) -> AsyncIterator[Served]:
    table = ServingTable()
    for name in _GRAPHS:
        model = _load(name)
        if model is not None and name not in _RANDOM:
            table.set("default", name, Entry({1: model}))
    async with serving(table, platform_files, bearer(make_token("viewer")), fast_lane=request.param) as running:
        yield running


def _request(feeds: Feeds) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    for name, array in feeds.items():
        kind = _KINDS[str(array.dtype)]
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
        request.raw_input_contents.append(to_raw(kind, array))
    return request


def _answers(reply: pb.ModelInferResponse, expected: list[Array]) -> list[Array]:
    found = []
    for output, raw, array in zip(reply.outputs, reply.raw_output_contents, expected, strict=True):
        kind = np.dtype(array.dtype) if array.dtype != object else np.dtype("S1")
        found.append(np.frombuffer(raw, kind).reshape(tuple(output.shape)))
    return found


async def test_answers_in_a_crowd_equal_lone_answers(served: Served) -> None:
    random, asked = np.random.default_rng(5), 0
    for _, name in served.table.deployments():
        session = session_of(_GRAPHS[name])
        callers = [_lone(session, random) for _ in range(_CALLERS)]
        known = [caller for caller in callers if caller is not None]

        async def call(feeds: Feeds, expected: list[Array], name: str = name) -> None:
            for _ in range(_REQUESTS):
                reply = await served.infer(name, request=_request(feeds))
                for found, array in zip(_answers(reply, expected), expected, strict=True):
                    assert same(found, array), name

        await asyncio.gather(*(call(*caller) for caller in known))
        asked += bool(known)
    assert asked > 50


def _lone(session: ort.InferenceSession, random: np.random.Generator) -> tuple[Feeds, list[Array]] | None:
    feeds = rows_of(session, random, int(random.integers(1, 4)), steps=3)
    try:
        return feeds, session.run(None, feeds)
    except Exception:
        # Some generated graphs take only some numbers of rows, alone as well.
        return None


def test_independent_graphs_do_share_runs_and_dynamic_int8_does_not() -> None:
    model = _load("linear")
    assert model is not None and model.batching == "batched"
    asked = Asked()
    for place in range(5):
        asked.ask(model, np.full((1, 3), place, np.float32))
    asked.finish()
    assert model.statistics.executions == 1
    assert not analyse(read_model(_GRAPHS["dynamic int8"])).is_independent
    mixed = _load("dynamic int8")
    assert mixed is not None and "one scale is found for all rows" in mixed.batching
    form, _ = find_form(mixed, ("logits",), {"x": np.ones((2, 16), np.float32)})
    assert not form.is_batched
