"""Real models for tests of typed prediction, and what they should say."""

import io
import math
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from lepton.v1 import common_pb2
from lepton.v1 import prediction_pb2 as pb

BAD, GOOD = "bad", "good"
_PURPOSES = {"": 0.5, "car": 0.25, "house": -0.75}


def credit_model() -> bytes:
    """Return a classifier of the columns amount, months, purpose and urgent, as fit() makes them."""
    nodes = [
        helper.make_node("IsNaN", ["amount"], ["none"]),
        helper.make_node("Where", ["none", "usual", "amount"], ["known"]),
        helper.make_node("Div", ["known", "thousand"], ["a"]),
        helper.make_node("Cast", ["months"], ["m_double"], to=TensorProto.DOUBLE),
        helper.make_node("Div", ["m_double", "ten"], ["m"]),
        helper.make_node(
            "LabelEncoder",
            ["purpose"],
            ["p_float"],
            domain="ai.onnx.ml",
            keys_strings=list(_PURPOSES),
            values_floats=list(_PURPOSES.values()),
            default_float=0.0,
        ),
        helper.make_node("Cast", ["p_float"], ["p"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["urgent"], ["u"], to=TensorProto.DOUBLE),
        helper.make_node("Sum", ["a", "m", "p", "u"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["good"]),
        helper.make_node("Sub", ["one", "good"], ["bad"]),
        helper.make_node("Concat", ["bad", "good"], ["both"], axis=1),
        helper.make_node("Cast", ["both"], ["probabilities"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["both"], ["best"], axis=1, keepdims=1),
        helper.make_node("Gather", ["labels", "best"], ["prediction"]),
    ]
    doubles = {"usual": 1500.0, "thousand": 1000.0, "ten": -10.0, "one": 1.0}
    initializers = [numpy_helper.from_array(np.array([[value]]), name) for name, value in doubles.items()]
    initializers.append(helper.make_tensor("labels", TensorProto.STRING, [2], [b"bad", b"good"]))
    return _serialized(
        nodes,
        {
            "amount": TensorProto.DOUBLE,
            "months": TensorProto.INT64,
            "purpose": TensorProto.STRING,
            "urgent": TensorProto.BOOL,
        },
        {"prediction": (TensorProto.STRING, 1), "probabilities": (TensorProto.FLOAT, 2)},
        initializers,
    )


def credit_signature(handle_unknown: str = "ignore") -> common_pb2.Signature:
    """Return the classifier's signature."""
    numeric, categorical = common_pb2.COLUMN_KIND_NUMERIC, common_pb2.COLUMN_KIND_CATEGORICAL
    return common_pb2.Signature(
        inputs=[
            _spec("amount", "FP64", numeric, nullable=True),
            _spec("months", "INT64", numeric),
            _spec("purpose", "BYTES", categorical, nullable=True, categories=["car", "house", ""]),
            _spec("urgent", "BOOL", common_pb2.COLUMN_KIND_BOOLEAN),
        ],
        outputs=[
            common_pb2.TensorSpec(name="prediction", datatype="BYTES", shape=[-1, 1]),
            common_pb2.TensorSpec(name="probabilities", datatype="FP32", shape=[-1, 2]),
        ],
        target="creditability",
        task="binary",
        classes=[BAD, GOOD],
        handle_unknown=handle_unknown,
    )


def credit_probability(amount: float | None, months: int, purpose: str | None, urgent: bool) -> float:
    """Return the probability of good, as the classifier should have it."""
    score = (1500.0 if amount is None else amount) / 1000 - months / 10 + _PURPOSES.get(purpose or "", 0.0) + urgent
    return 1 / (1 + math.exp(-score))


def price_model() -> bytes:
    """Return a regressor: price = 2 size + 1, doubles."""
    constants = [numpy_helper.from_array(np.array([[value]]), name) for name, value in (("two", 2.0), ("one", 1.0))]
    nodes = [
        helper.make_node("Mul", ["size", "two"], ["twice"]),
        helper.make_node("Add", ["twice", "one"], ["prediction"]),
    ]
    return _serialized(nodes, {"size": TensorProto.DOUBLE}, {"prediction": (TensorProto.DOUBLE, 1)}, constants)


def price_signature() -> common_pb2.Signature:
    """Return the regressor's signature."""
    return common_pb2.Signature(
        inputs=[_spec("size", "FP64", common_pb2.COLUMN_KIND_NUMERIC)],
        outputs=[common_pb2.TensorSpec(name="prediction", datatype="FP64", shape=[-1, 1])],
        target="price",
        task="regression",
    )


def series_model() -> bytes:
    """Return a forecaster of two steps from the series x and z, NaN as 0: the sum of x, and of both; 1 about them."""
    nodes = []
    for name in ("x", "z"):
        nodes += [
            helper.make_node("IsNaN", [name], [f"{name}_none"]),
            helper.make_node("Where", [f"{name}_none", "zero", name], [f"{name}_known"]),
            helper.make_node("ReduceSum", [f"{name}_known", "axis"], [f"{name}_sum"], keepdims=1),
        ]
    nodes += [
        helper.make_node("Add", ["x_sum", "z_sum"], ["both"]),
        helper.make_node("Concat", ["x_sum", "both"], ["prediction"], axis=1),
        helper.make_node("Sub", ["prediction", "one"], ["lower"]),
        helper.make_node("Add", ["prediction", "one"], ["upper"]),
    ]
    constants = {"zero": np.float32(0.0), "one": np.float32(1.0), "axis": np.array([1])}
    return _model(
        nodes,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "steps"]) for name in ("x", "z")],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 2])
            for name in ("prediction", "lower", "upper")
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )


def series_signature() -> common_pb2.Signature:
    """Return the forecaster's signature."""
    inputs = [_spec(name, "FP32", common_pb2.COLUMN_KIND_SERIES, nullable=True) for name in ("x", "z")]
    for spec in inputs:
        spec.shape[:] = [-1, -1]
    outputs = [
        common_pb2.TensorSpec(name=name, datatype="FP32", shape=[-1, 2]) for name in ("prediction", "lower", "upper")
    ]
    return common_pb2.Signature(inputs=inputs, outputs=outputs, target="x_next", task="forecasting")


def row(**values: Any) -> pb.Row:
    """Return a row of Python values; None is missing."""
    return pb.Row(values={name: to_value(value) for name, value in values.items()})


def to_value(value: Any) -> pb.Value:
    """Return a Python value's message."""
    if value is None:
        return pb.Value(missing=pb.Missing())
    if isinstance(value, list):
        return pb.Value(series=pb.Series(values=[math.nan if item is None else item for item in value]))
    if isinstance(value, bool):
        return pb.Value(boolean=value)
    if isinstance(value, int):
        return pb.Value(integer=value)
    return pb.Value(number=value) if isinstance(value, float) else pb.Value(text=value)


def _spec(name: str, datatype: str, kind: int, *, nullable: bool = False, categories: list[str] | None = None) -> Any:
    spec = common_pb2.TensorSpec(
        name=name, datatype=datatype, shape=[-1, 1], nullable=nullable, categories=categories or []
    )
    spec.kind = kind  # type: ignore[assignment]
    return spec


def _serialized(nodes: Any, inputs: dict[str, int], outputs: dict[str, tuple[int, int]], initializers: Any) -> bytes:
    return _model(
        nodes,
        [helper.make_tensor_value_info(name, kind, ["batch", 1]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, ["batch", size]) for name, (kind, size) in outputs.items()],
        initializers,
    )


def _model(nodes: Any, inputs: Any, outputs: Any, initializers: Any) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def text_model(width: int | str = "tokens") -> bytes:
    """Return a classifier of texts: logits[0] = tokens that are not padding, logits[1] = the sum of their ids."""
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["seen"]),
        helper.make_node("ReduceSum", ["attention_mask", "axis"], ["count"], keepdims=1),
        helper.make_node("ReduceSum", ["seen", "axis"], ["total"], keepdims=1),
        helper.make_node("Concat", ["count", "total"], ["both"], axis=1),
        helper.make_node("Cast", ["both"], ["logits"], to=TensorProto.FLOAT),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", width])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])]
    return _model(nodes, inputs, outputs, [numpy_helper.from_array(np.array([1]), "axis")])


def tokenizer_file(most_tokens: int | None = None, **padding: Any) -> bytes:
    """Return a tokenizer.json of words: [PAD] 0, [UNK] 1, good 2, bad 3."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if most_tokens is not None:
        tokenizer.enable_truncation(most_tokens)
    if padding:
        tokenizer.enable_padding(**padding)
    return str(tokenizer.to_str()).encode()


def image_model(channels: int = 3, size: int | str = "size", batch: int | str = "batch") -> bytes:
    """Return a model that gives each image's mean a channel: pixels (batch, channels, size, size) FP32."""
    nodes = [helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[2, 3], keepdims=0)]
    inputs = [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, channels, size, size])]
    outputs = [helper.make_tensor_value_info("means", TensorProto.FLOAT, [batch, channels])]
    return _model(nodes, inputs, outputs, [])


def png(color: tuple[int, ...] | int, size: tuple[int, int] = (6, 4), kind: str = "PNG") -> bytes:
    """Return an image of one color, width and height given."""
    content = io.BytesIO()
    mode = "L" if isinstance(color, int) else "RGB"
    Image.new(mode, size, color).save(content, kind)
    return content.getvalue()
