"""The models: a tiny network and a ResNet written here, MiniLM exported in an environment with transformers."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.serving.environments import ROOT, environment
from benchmarks.serving.question import Question

TOKENS = 32
_OPSET = 18
_FLOATS = 30
_HIDDEN = 16
# ResNet-18's, each a quarter: a ResNet-18-sized net that a core can run some hundred times a second.
_WIDTHS = (16, 32, 64, 128)
_CLASSES = 1000
_VOCABULARY = 30_000


def tiny(folder: Path, seed: int = 0) -> Question:
    """Return 30 floats through one hidden layer to a probability; seeds make versions that answer differently."""
    draw = np.random.default_rng(seed)
    graph = _Graph(draw)
    hidden = graph.dense("x", _FLOATS, _HIDDEN)
    output = graph.node("Sigmoid", [graph.dense(graph.node("Relu", [hidden]), _HIDDEN, 1)], name="probability")
    path = folder / f"tiny-{seed}.onnx"
    graph.save(path, ("x", [_FLOATS]), (output, [1]))
    # The same row for every seed.
    return Question("tiny", path, {"x": np.random.default_rng(0).normal(size=(1, _FLOATS)).astype(np.float32)})


def cnn(folder: Path) -> Question:
    """Return a ResNet-18 of a quarter's width, random weights, its batch norms folded into the convolutions."""
    draw = np.random.default_rng(0)
    graph = _Graph(draw)
    present = graph.node("Relu", [graph.convolve("image", 3, _WIDTHS[0], 7, 2)])
    present = graph.node("MaxPool", [present], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = _WIDTHS[0]
    for width in _WIDTHS:
        for block in range(2):
            stride = 2 if block == 0 and width != _WIDTHS[0] else 1
            present = graph.residual(present, channels, width, stride)
            channels = width
    pooled = graph.node("Flatten", [graph.node("GlobalAveragePool", [present])])
    output = graph.dense(pooled, channels, _CLASSES, name="logits")
    path = folder / "cnn.onnx"
    graph.save(path, ("image", [3, 224, 224]), (output, [_CLASSES]))
    return Question("cnn", path, {"image": draw.random((1, 3, 224, 224), dtype=np.float32)})


def minilm(cache: Path) -> Question:
    """Return MiniLM with a classification head; exported once.

    Raises:
        EnvironmentFailed: transformers or the weights could not be installed.
        subprocess.CalledProcessError: the export failed.
    """
    path = cache / "minilm.onnx"
    if not path.exists():
        python = environment(cache, "export")
        script = Path(__file__).parent / "export" / "minilm.py"
        subprocess.run([str(python), str(script), str(path)], check=True, cwd=ROOT, capture_output=True, text=True)
    draw = np.random.default_rng(0)
    ids = draw.integers(1000, _VOCABULARY, size=(1, TOKENS), dtype=np.int64)
    return Question("minilm", path, {"input_ids": ids, "attention_mask": np.ones((1, TOKENS), dtype=np.int64)})


def write_question(question: Question, path: Path) -> Path:
    """Write a question's inputs where another process reads them."""
    path.write_text(json.dumps(json.loads(question.json())["inputs"]))
    return path


class _Graph:
    """Builds an ONNX graph node by node; weights are drawn so that values neither vanish nor explode."""

    def __init__(self, draw: np.random.Generator) -> None:
        self._draw = draw
        self._nodes: list[Any] = []
        self._weights: list[Any] = []

    def node(self, kind: str, inputs: list[str], name: str = "", **attributes: Any) -> str:
        """Add a node; return its output's name."""
        output = name or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, *shape: int, scale: float) -> str:
        """Add a random weight; return its name."""
        name = f"weight_{len(self._weights)}"
        values = (self._draw.normal(size=shape) * scale).astype(np.float32)
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def dense(self, source: str, before: int, after: int, name: str = "") -> str:
        """Add a fully connected layer."""
        weights = [self.weight(before, after, scale=before**-0.5), self.weight(after, scale=0.1)]
        return self.node("Gemm", [source, *weights], name=name)

    def convolve(self, source: str, before: int, after: int, size: int, stride: int) -> str:
        """Add a convolution that keeps the size, but for its stride."""
        weights = [
            self.weight(after, before, size, size, scale=(2 / (before * size * size)) ** 0.5),
            self.weight(after, scale=0.1),
        ]
        return self.node(
            "Conv", [source, *weights], kernel_shape=[size] * 2, strides=[stride] * 2, pads=[size // 2] * 4
        )

    def residual(self, source: str, before: int, after: int, stride: int) -> str:
        """Add ResNet's basic block."""
        inside = self.node("Relu", [self.convolve(source, before, after, 3, stride)])
        inside = self.convolve(inside, after, after, 3, 1)
        beside = source if (before, stride) == (after, 1) else self.convolve(source, before, after, 1, stride)
        return self.node("Relu", [self.node("Add", [inside, beside])])

    def save(self, path: Path, source: tuple[str, list[int]], output: tuple[str, list[int]]) -> None:
        """Write the graph with one input and one output, names and shapes without the batch."""
        ends = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])]
            for name, shape in (source, output)
        ]
        graph = helper.make_graph(self._nodes, path.stem, *ends, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
