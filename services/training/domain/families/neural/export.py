"""Networks to ONNX, by torch's exporter, with the answers that every model here gives."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn, onnx

from services.training.domain.families.model import WIRE_TYPES, label_values
from services.training.domain.families.target import EMBEDDING, Target

_OPSET = 20
_LOG_ODDS = "log_odds"
_NUMBER = "number"
_VECTOR = "vector"


def export_network(
    network: nn.Module, samples: Sequence[Tensor], inputs: Sequence[str], free: Sequence[dict[int, Any]], target: Target
) -> bytes:
    """Return the ONNX model of a network, which answers as its target asks.

    The same weights give the same bytes. Of (rows, classes) log odds it makes `prediction` and `probabilities`, of
    (rows, 1) numbers `prediction`; (rows, size) vectors are `embedding` as they are.

    Args:
        network: what it gives of its inputs; as it predicts.
        samples: an input each. Two tensors: of one that stands twice the exporter makes one input.
        inputs: their names.
        free: of each its dimensions that vary, named by torch.export.Dim.
        target: what is predicted.
    """
    raw = _LOG_ODDS if target.classes else _VECTOR if target.task == EMBEDDING else _NUMBER
    with warnings.catch_warnings(), _without_advice():
        warnings.simplefilter("ignore")
        program = onnx.export(
            network,
            tuple(samples),
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            input_names=list(inputs),
            output_names=[raw],
            dynamic_shapes=tuple(free),
        )
    assert program is not None
    model = program.model_proto
    _forget_sources(model)
    if target.classes:
        _add_labels(model.graph, target)
    elif target.task == EMBEDDING:
        _add_embedding(model.graph)
    else:
        _add_number(model.graph, target)
    return bytes(model.SerializeToString(deterministic=True))


def _add_embedding(graph: Any) -> None:
    # The exporter calls the look-up of token vectors so, and names are unique.
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == EMBEDDING:
                    names[place] = f"{EMBEDDING}_of_tokens"
    for item in [item for item in graph.value_info if item.name == EMBEDDING]:
        item.name = f"{EMBEDDING}_of_tokens"
    size = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    graph.node.append(helper.make_node("Identity", [_VECTOR], [EMBEDDING]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, [None, size]))


def _add_number(graph: Any, target: Target) -> None:
    kind = WIRE_TYPES[target.datatype]
    graph.node.append(helper.make_node("Cast", [_NUMBER], ["prediction"], to=kind))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("prediction", kind, [None, 1]))


def _add_labels(graph: Any, target: Target) -> None:
    graph.initializer.append(numpy_helper.from_array(label_values(target), "labels"))
    graph.node.extend(
        (
            helper.make_node("Softmax", [_LOG_ODDS], ["probabilities"], axis=1),
            helper.make_node("ArgMax", [_LOG_ODDS], ["best"], axis=1, keepdims=1),
            helper.make_node("Gather", ["labels", "best"], ["prediction"]),
        )
    )
    del graph.output[:]
    graph.output.extend(
        (
            helper.make_tensor_value_info("prediction", WIRE_TYPES[target.datatype], [None, 1]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, len(target.classes)]),
        )
    )


def _forget_sources(model: Any) -> None:
    """Drop the exporter's notes on which line of which file each node is from: they differ where the model does not."""
    del model.metadata_props[:]
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("doc_string")
        del part.metadata_props[:]


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keep the exporter's word on libraries that it looks for, and that nobody needs, out of the log."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
