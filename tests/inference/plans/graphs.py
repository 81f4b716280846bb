"""Real graphs that are worth another plan, and rows whose labels a slightly different model gets right, or wrong."""

import io
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from services.inference.domain.tuning import TuningMode, Wish
from services.inference.plans.candidates import Hardware
from services.inference.plans.machine import read_hardware
from services.inference.plans.wire import Header, Source, frame

Array = np.ndarray[Any, Any]

_WIDTH = 768
# Wide enough that a run is worth tuning.
WIDE = 2048
CLASSES = 4


def layers(inputs: int = 16, width: int = _WIDTH) -> bytes:
    """Return three dense layers: x FP32 [batch, inputs] to logits FP32 [batch, 4]."""
    draw = np.random.default_rng(0)
    sizes = (inputs, width, width, CLASSES)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    last = "x"
    for index, (given, taken) in enumerate(pairwise(sizes)):
        weights = draw.standard_normal((given, taken)) / np.sqrt(given)
        constants[f"w{index}"] = weights.astype(np.float32)
        constants[f"b{index}"] = np.zeros(taken, np.float32)
        name = "logits" if index == len(sizes) - 2 else f"h{index}"
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [name]))
        last = name
        if name != "logits":
            nodes.append(helper.make_node("Relu", [name], [f"r{index}"]))
            last = f"r{index}"
    return _model(nodes, [("x", ["batch", inputs])], constants)


def convolutions() -> bytes:
    """Return four convolutions: x FP32 [batch, 3, 32, 32] to logits FP32 [batch, 4]."""
    draw = np.random.default_rng(0)
    sizes = (3, 32, 64, 64, 64)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Array] = {}
    last = "x"
    for index, (given, taken) in enumerate(pairwise(sizes)):
        weights = draw.standard_normal((taken, given, 3, 3)) / np.sqrt(9 * given)
        constants[f"w{index}"] = weights.astype(np.float32)
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        last = f"r{index}"
    constants["head"] = draw.standard_normal((sizes[-1], CLASSES)).astype(np.float32)
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["logits"]))
    return _model(nodes, [("x", ["batch", 3, 32, 32])], constants)


def labelled(graph: bytes, rows: int, *, is_clear: bool = True) -> tuple[Array, Array]:
    """Return inputs and the labels that a graph gives them.

    Args:
        graph: one of the above.
        rows: how many.
        is_clear: take the rows for which one class stands out; else those for which two are nearly as good.
    """
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    [spec] = session.get_inputs()
    x = np.random.default_rng(1).standard_normal((5 * rows, *spec.shape[1:])).astype(np.float32)
    logits = session.run(None, {"x": x})[0]
    logits -= np.median(logits, axis=0)
    logits = session.run(None, {"x": x})[0]
    best = np.sort(logits, axis=1)
    order = np.argsort(best[:, -1] - best[:, -2])
    chosen = order[-rows:] if is_clear else order[:rows]
    return x[chosen], np.argmax(logits[chosen], axis=1)


def table_of(x: Array, labels: Array | None) -> pa.Table:
    """Return rows as a dataset has them: a list of values, and the label."""
    flat = x.reshape(len(x), -1)
    columns = {"x": pa.array(list(flat), pa.list_(pa.float32()))}
    return pa.table(columns if labels is None else columns | {"label": labels})


def header(graph: bytes, source: Source | None, mode: str = "within_loss", loss: float = 0.5, **more: Any) -> Header:
    """Return a question about a graph."""
    fields: dict[str, Any] = {
        "candidate": "",
        "hardware": hardware(),
        "wish": Wish(TuningMode(mode), loss, ""),
        "task": "",
        "classes": (),
        "seconds": 6.0,
        "memory_bytes": 2 << 30,
        "graph_bytes": len(graph),
        "source": source,
        "message": "" if source else "the version was not evaluated",
    }
    return Header(**(fields | more))


def hardware() -> Hardware:
    """Return this machine's, without a GPU."""
    return read_hardware("CPUExecutionProvider", 1)


def source_of(table: pa.Table) -> Source:
    """Return where a table's rows would be from."""
    return Source("rows@1", "label", table.num_rows)


async def frames_of(table: pa.Table | None) -> AsyncGenerator[bytes, None]:
    """Yield a table as a worker sends it."""
    if table is None:
        return
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    content = sink.getvalue()
    for start in range(0, len(content), 1 << 16):
        yield frame(content[start : start + (1 << 16)])
    yield frame(b"")


def _model(
    nodes: list[onnx.NodeProto], inputs: list[tuple[str, list[int | str]]], constants: dict[str, Array]
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content: bytes = model.SerializeToString()
    return content
