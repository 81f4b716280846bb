"""Arrays to Open Inference replies: pure."""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.codec import TYPED_FIELDS, WIRE_TYPES, is_raw_request, wanted_classes
from services.inference.serving.model import Array, LoadedModel

_LENGTH = struct.Struct("<I")
UNKNOWN_PARAMETER = "lepton_unknown_categories"


def build_reply(
    request: pb.ModelInferRequest,
    model: LoadedModel,
    names: Sequence[str],
    arrays: Sequence[Array],
    *,
    typed_mirrors: bool = True,
) -> pb.ModelInferResponse:
    """Return the reply to a request.

    Args:
        request: what was asked: a raw request gets a raw reply, a typed one a typed reply, one without any a raw one.
        model: who answers.
        names: of the outputs.
        arrays: the outputs.
        typed_mirrors: False gives raw replies to typed requests, too, as Triton does.
    """
    reply = pb.ModelInferResponse(model_name=request.model_name, model_version=model.version, id=request.id)
    is_raw = is_raw_request(request) or not typed_mirrors
    # Never mixed: floats of two bytes have no typed field, and so the whole reply is raw.
    is_raw = is_raw or any(model.outputs[name].datatype in ("FP16", "BF16") for name in names)
    wanted = {output.name: wanted_classes(output, model) for output in request.outputs}
    for name, array in zip(names, arrays, strict=True):
        spec = model.outputs[name]
        datatype, values = spec.datatype, array
        if wanted.get(name):
            datatype, values = "BYTES", classify(array, wanted[name], spec.labels, is_by_row=spec.is_by_row)
        tensor = reply.outputs.add(name=name, datatype=datatype, shape=values.shape)
        if is_raw:
            reply.raw_output_contents.append(to_raw(datatype, values))
        else:
            getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(_to_typed(datatype, values))
    return reply


def add_unknown(reply: pb.ModelInferResponse, inputs: Mapping[str, Array], model: LoadedModel) -> None:
    """Add the parameter that counts unknown categories, a JSON object by column, where there are some."""
    found = {}
    for spec in model.inputs.values():
        if spec.categories is None or spec.name not in inputs:
            continue
        texts = inputs[spec.name].ravel().tolist()
        if not spec.categories.issuperset(texts):
            found[spec.name] = sum(text not in spec.categories for text in texts)
    if found:
        reply.parameters[UNKNOWN_PARAMETER].string_param = json.dumps(found)


def classify(array: Array, count: int, labels: tuple[str, ...], *, is_by_row: bool = False) -> Array:
    """Return Triton's classification form: the largest values of each row as `value:index` or `value:index:label`.

    Args:
        array: (rows, classes), (classes,), or (rows,) with a single class a row; an array without axes is one value.
        count: how many of each row, at most all.
        labels: of the classes; empty for none.
        is_by_row: whether the first axis is rows.
    """
    if array.dtype.kind == "V":
        # bfloat16: NumPy writes no such numbers.
        array = array.astype(np.float32)
    has_one_class = array.ndim == 0 or (array.ndim == 1 and is_by_row)
    rows = array.reshape(*array.shape, 1) if has_one_class else array
    classes = rows.shape[-1]
    # Among equals the first class wins, as a stable sort of the reversed row, read backwards, has it.
    order = classes - 1 - np.argsort(rows[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :count]
    values = np.take_along_axis(rows, order, axis=-1)
    number = "{:f}" if array.dtype.kind == "f" else "{:d}"
    texts = [
        number.format(value) + f":{place}" + (f":{labels[place]}" if labels else "")
        for value, place in zip(values.reshape(-1).tolist(), order.reshape(-1).tolist(), strict=True)
    ]
    return np.array(texts, dtype=object).reshape(order.shape)


def to_raw(datatype: str, array: Array) -> bytes:
    """Return an array's bytes on the wire."""
    if datatype == "BYTES":
        return b"".join(packed_texts(array))
    return np.ascontiguousarray(array, dtype=WIRE_TYPES[datatype]).tobytes()


def packed_texts(array: Array) -> list[bytes]:
    """Return each text of an array with its length before it."""
    return [_LENGTH.pack(len(item)) + item for item in _encoded(array)]


def _to_typed(datatype: str, array: Array) -> Any:
    return _encoded(array) if datatype == "BYTES" else array.reshape(-1).tolist()


def _encoded(array: Array) -> list[bytes]:
    return [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]
