"""The measuring child: a real process, real graphs, real rows."""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil
import pytest

from lepton.v1 import inference_pb2 as pb
from servicekit.errors import Unavailable
from services.inference.plans import child
from services.inference.plans.child import NoAnswer, ask
from services.inference.plans.wire import frame
from tests.inference.plans.graphs import (
    convolutions,
    frames_of,
    hardware,
    header,
    labelled,
    layers,
    source_of,
    table_of,
)
from tests.support import onnx_models


def _outcomes(plan: pb.Plan) -> dict[str, str]:
    return {candidate.name: candidate.outcome for candidate in plan.candidates}


def _losses(plan: pb.Plan) -> dict[str, float]:
    return {item.name: item.loss_points for item in plan.candidates if item.HasField("loss_points")}


async def test_int8_is_chosen_where_it_is_faster_and_its_loss_small() -> None:
    graph = layers()
    table = table_of(*labelled(graph, 300))
    for _ in range(3):
        # A busy machine may hide a gain once: what is chosen is what was measured.
        plan, content = await ask(header(graph, source_of(table), seconds=12.0), graph, frames_of(table))
        if plan.precision == "int8":
            break
    assert plan.precision == "int8", plan
    assert _outcomes(plan)[plan.name] == "chosen"
    assert hashlib.sha256(content).hexdigest() == plan.graph_sha256
    assert (plan.quality.metric, plan.quality.dataset) == ("accuracy", "rows@1")
    assert plan.quality.plain_points == 100.0
    assert plan.quality.loss_points <= 0.5
    # Not on the rows that ranges were taken from.
    assert plan.quality.rows == 240
    # As many sizes as there was time for, which a busy machine has less of.
    assert plan.speeds
    assert [speed.rows for speed in plan.speeds] == [1 << power for power in range(len(plan.speeds))]
    assert all(speed.rows_per_second > 0 for speed in plan.speeds)
    assert next(item.speedup for item in plan.candidates if item.name == plan.name) >= 1.05
    assert 1 <= plan.batch_rows <= 64
    # What comes back is a graph that runs, and is another one.
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((3, 16), np.float32)})[0].shape == (3, 4)
    assert content != graph


async def test_static_int8_is_tried_for_convolutions_and_calibrated_on_the_rows() -> None:
    graph = convolutions()
    table = table_of(*labelled(graph, 200))
    plan, content = await ask(header(graph, source_of(table), loss=100.0), graph, frames_of(table))
    tried = next(item for item in plan.candidates if item.name == "int8_static")
    assert tried.speedup > 0, tried
    assert "int8_dynamic" not in _outcomes(plan)
    if plan.name == "int8_static":
        assert b"QuantizeLinear" in content


async def test_plan_that_loses_too_much_is_refused_and_the_loss_told() -> None:
    graph = layers()
    table = table_of(*labelled(graph, 200, is_clear=False))
    plan, content = await ask(header(graph, source_of(table), seconds=15.0), graph, frames_of(table))
    assert (plan.name, content) == ("plain", b"")
    assert plan.quality.loss_points == 0.0
    losses = _losses(plan)
    refused = [name for name in losses if name.startswith("int8")]
    assert refused, plan
    assert all(losses[name] > 0.5 and "more than 0.5" in _outcomes(plan)[name] for name in refused)


async def test_without_rows_only_lossless_plans_are_tried() -> None:
    graph = convolutions()
    plan, _ = await ask(header(graph, None), graph, frames_of(None))
    outcomes = _outcomes(plan)
    # On a processor without VNNI int8 stands there with reduced ranges, too.
    assert set(outcomes) - {"int8_static_reduced"} == {"plain", "extended", "int8_static"}
    assert "too few rows" in outcomes["int8_static"]
    assert "the version was not evaluated" in plan.message
    assert not plan.HasField("quality")


async def test_rows_that_do_not_fit_the_model_are_named_and_nothing_is_lost_by_them() -> None:
    graph = layers()
    table = table_of(*labelled(graph, 200)).rename_columns(["other", "label"])
    plan, _ = await ask(header(graph, source_of(table)), graph, frames_of(table))
    assert "no column 'x'" in plan.message
    assert _outcomes(plan)["int8_dynamic"].startswith("not tried")


async def test_rows_that_stop_coming_are_told_of() -> None:
    graph = layers()
    table = table_of(*labelled(graph, 200))

    async def broken() -> AsyncGenerator[bytes, None]:
        async for chunk in frames_of(table):
            yield frame(chunk[4:3000])
            raise Unavailable("the data service is away")

    plan, _ = await ask(header(graph, source_of(table)), graph, broken())
    assert "could not be read to its end" in plan.message
    assert plan.candidates


async def test_same_question_builds_the_same_graph_again() -> None:
    graph = convolutions()
    table = table_of(*labelled(graph, 200))
    answers = [
        await ask(header(graph, source_of(table), candidate="int8_static"), graph, frames_of(table)) for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0][1]
    assert answers[0][0].graph_sha256 == hashlib.sha256(answers[0][1]).hexdigest()


async def test_graph_that_takes_one_row_alone_is_measured_with_one() -> None:
    graph = onnx_models.linear_model(batch=1)
    plan, _ = await ask(header(graph, None), graph, frames_of(None))
    assert [speed.rows for speed in plan.speeds] == [1]
    assert plan.batch_rows == 1


async def test_child_that_takes_too_long_is_ended() -> None:
    graph = onnx_models.endless_model()
    with pytest.raises(NoAnswer, match="longer than"):
        await ask(header(graph, None, seconds=0.5), graph, frames_of(None), grace_seconds=1.5)
    assert not _children()


async def test_child_that_is_killed_gives_no_answer() -> None:
    graph = onnx_models.endless_model()
    asking = asyncio.create_task(ask(header(graph, None), graph, frames_of(None)))
    async with asyncio.timeout(120):
        while not _children():
            await asyncio.sleep(0.05)
    os.kill(_children()[0].pid, signal.SIGKILL)
    with pytest.raises(NoAnswer, match="memory"):
        await asking


async def test_child_that_may_not_take_the_memory_says_so_or_ends() -> None:
    graph = onnx_models.greedy_model()
    try:
        plan, content = await ask(header(graph, None, memory_bytes=1 << 30), graph, frames_of(None))
    except NoAnswer:
        return
    assert (plan.name, content, len(plan.candidates)) == ("plain", b"", 0)


@pytest.mark.parametrize(
    "script",
    ["import sys; sys.stdout.write('nonsense')", "pass", "import sys; sys.stdout.buffer.write(b'\\0\\0\\0\\2zz')"],
)
async def test_nonsense_is_no_answer(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_COMMAND", (sys.executable, "-c", script))
    graph = layers()
    with pytest.raises(NoAnswer, match="no plan"):
        await ask(header(graph, None), graph, frames_of(None))


async def test_nothing_is_left_behind_and_no_row_was_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("services.inference.plans.machine._MEMORY_FOLDER", tmp_path)
    graph = layers()
    table = table_of(*labelled(graph, 200))
    asking = asyncio.create_task(ask(header(graph, source_of(table)), graph, frames_of(table)))
    seen: set[str] = set()
    while not asking.done():
        seen |= {path.name for path in tmp_path.rglob("*") if path.is_file()}
        await asyncio.sleep(0.01)
    await asking
    # On hosts that let a process mount, not even graphs are seen from outside.
    assert not [name for name in seen if not name.endswith((".onnx", ".data"))], seen
    assert not list(tmp_path.iterdir())


def _children() -> list[psutil.Process]:
    return [item for item in psutil.Process().children() if "services.inference.plans" in " ".join(item.cmdline())]


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidiactl").exists(), reason="needs a CUDA device")
async def test_half_precision_is_tried_on_a_gpu() -> None:
    graph = layers(width=2048)
    table = table_of(*labelled(graph, 300))
    question = header(graph, source_of(table), hardware=replace(hardware(), provider="CUDAExecutionProvider"))
    plan, _ = await ask(question, graph, frames_of(table))
    tried = next(item for item in plan.candidates if item.name == "fp16")
    assert tried.speedup > 0, tried
    assert plan.provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider")


async def test_of_a_large_dataset_the_first_rows_are_judged_on() -> None:
    graph = layers()
    table = table_of(*labelled(graph, 300))
    question = header(graph, replace(source_of(table), first=200))
    plan, _ = await ask(question, graph, frames_of(table))
    assert plan.quality.rows == 160


async def test_held_out_rows_are_drawn_from_the_labels_of_all() -> None:
    graph = layers()
    x, labels = labelled(graph, 1500)
    table = table_of(x, labels)
    classes = tuple(str(label) for label in range(4))
    source = replace(source_of(table), seed=7, classes=classes)

    async def both() -> AsyncGenerator[bytes, None]:
        async for chunk in frames_of(table.select(["label"])):
            yield chunk
        async for chunk in frames_of(table):
            yield chunk

    plan, _ = await ask(header(graph, source), graph, both())
    # A tenth of each class, and of these four fifths: the others are for ranges.
    held_out = sum(round(0.1 * count) for count in np.bincount(labels, minlength=4))
    assert plan.quality.rows == held_out - -(-held_out // 5)


async def test_model_too_slow_to_be_judged_in_the_time_keeps_its_plan() -> None:
    graph = convolutions()
    table = table_of(*labelled(graph, 200))
    plan, _ = await ask(header(graph, source_of(table), loss=100.0, seconds=0.02), graph, frames_of(table))
    assert plan.precision == "as registered"
    assert not plan.HasField("quality")
