"""Open Inference requests to arrays and arrays to replies: pure; a refusal names model, tensor, expected and got."""

import struct
from typing import Any

import numpy as np

from servicekit.errors import InvalidArgument
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.model import NUMPY_TYPES, Array, InputSpec, LoadedModel

# Where each datatype's values lie in a typed request or reply; FP16 travels raw alone.
TYPED_FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_NARROW = frozenset(("INT8", "INT16", "UINT8", "UINT16"))
DATATYPES = frozenset((*NUMPY_TYPES, "BYTES", "BF16"))
_WIRE_TYPES = {name: np.dtype(kind).newbyteorder("<") for name, kind in NUMPY_TYPES.items()}
_LENGTH = struct.Struct("<I")
# A request of the largest size cannot name more elements; a product beyond is an overflow in waiting.
_MAX_ELEMENTS = 1 << 40
_CLASSIFICATION = "classification"


def parse_inputs(request: pb.ModelInferRequest, model: LoadedModel) -> dict[str, Array]:
    """Return a request's inputs by name, checked against the model.

    Raises:
        InvalidArgument: a tensor lacks, is unknown, stands twice, or is not what the model takes.
    """
    _check_parameters(request.parameters)
    tensors = request.inputs
    raw = request.raw_input_contents
    if raw and len(raw) != len(tensors):
        raise _refused(model, "", f"one raw_input_contents entry per input ({len(tensors)})", str(len(raw)))
    arrays: dict[str, Array] = {}
    batch = -1
    for index, tensor in enumerate(tensors):
        spec = model.inputs.get(tensor.name)
        if spec is None or tensor.name in arrays:
            word = "is unknown" if spec is None else "stands twice"
            raise _refused(model, tensor.name, f"inputs {', '.join(model.inputs)}", f"one that {word}")
        shape = _checked_shape(tensor, spec, model)
        if raw:
            if tensor.HasField("contents"):
                raise _refused(model, tensor.name, "raw_input_contents alone", "typed contents beside them")
            array = _from_raw(raw[index], spec, shape, model)
        else:
            array = _from_typed(tensor.contents, spec, shape, model)
        if shape and spec.shape[0] == -1:
            if batch not in (-1, shape[0]):
                raise _refused(model, tensor.name, f"a batch of {batch}, as the inputs before", str(shape[0]))
            batch = shape[0]
        _check_values(array, spec, model)
        arrays[tensor.name] = array
    if len(arrays) != len(model.inputs):
        lacking = [name for name in model.inputs if name not in arrays]
        raise _refused(model, lacking[0], "every input of the model", f"no {', '.join(lacking)}")
    return arrays


def requested_outputs(request: pb.ModelInferRequest, model: LoadedModel) -> list[str]:
    """Return the names of the outputs that a request wants, in its order; all where it names none.

    Raises:
        InvalidArgument: an output is unknown or stands twice.
    """
    if not request.outputs:
        return list(model.outputs)
    names = [output.name for output in request.outputs]
    for output in request.outputs:
        if output.name not in model.outputs or names.count(output.name) > 1:
            word = "stands twice" if output.name in model.outputs else "is unknown"
            raise _refused(model, output.name, f"outputs {', '.join(model.outputs)}", f"one that {word}")
        _check_parameters(output.parameters)
    return names


def build_reply(
    request: pb.ModelInferRequest,
    model: LoadedModel,
    names: list[str],
    arrays: list[Array],
    *,
    typed_mirrors: bool = True,
) -> pb.ModelInferResponse:
    """Return the reply to a request.

    Args:
        request: what was asked: a raw request gets a raw reply, a typed one a typed reply.
        model: who answers.
        names: of the outputs.
        arrays: the outputs.
        typed_mirrors: False gives raw replies to typed requests, too, as Triton does.
    """
    reply = pb.ModelInferResponse(model_name=request.model_name, model_version=model.version, id=request.id)
    is_raw = bool(request.raw_input_contents) or not typed_mirrors
    # Never mixed: half floats have no typed field, and so the whole reply is raw.
    is_raw = is_raw or any(model.outputs[name].datatype == "FP16" for name in names)
    wanted = {output.name: _top(output, model) for output in request.outputs}
    for name, array in zip(names, arrays, strict=True):
        spec = model.outputs[name]
        datatype, values = spec.datatype, array
        if wanted.get(name):
            datatype, values = "BYTES", classify(array, wanted[name], spec.labels)
        tensor = reply.outputs.add(name=name, datatype=datatype, shape=values.shape)
        if is_raw:
            reply.raw_output_contents.append(to_raw(datatype, values))
        else:
            getattr(tensor.contents, TYPED_FIELDS[datatype]).extend(_to_typed(datatype, values))
    return reply


def classify(array: Array, count: int, labels: tuple[str, ...]) -> Array:
    """Return Triton's classification form: the largest values of each row as `value:index` or `value:index:label`.

    Args:
        array: (rows, classes) or (classes,).
        count: how many of each row, at most all.
        labels: of the classes; empty for none.
    """
    rows = array.reshape(-1, array.shape[-1])
    order = np.argsort(-rows, axis=1, kind="stable")[:, : min(count, rows.shape[1])]
    texts = [
        [f"{row[place]:f}:{place}{':' + labels[place] if labels else ''}" for place in places]
        for row, places in zip(rows, order, strict=True)
    ]
    return np.array(texts, dtype=object).reshape(*array.shape[:-1], order.shape[1])


def to_raw(datatype: str, array: Array) -> bytes:
    """Return an array's bytes on the wire."""
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(item)) + item for item in _encoded(array))
    return np.ascontiguousarray(array, dtype=_WIRE_TYPES[datatype]).tobytes()


def _to_typed(datatype: str, array: Array) -> Any:
    return _encoded(array) if datatype == "BYTES" else array.reshape(-1).tolist()


def _encoded(array: Array) -> list[bytes]:
    return [item if isinstance(item, bytes) else str(item).encode() for item in array.reshape(-1).tolist()]


def _checked_shape(
    tensor: "pb.ModelInferRequest.InferInputTensor", spec: InputSpec, model: LoadedModel
) -> tuple[int, ...]:
    if tensor.datatype != spec.datatype:
        if tensor.datatype not in DATATYPES:
            raise _refused(model, spec.name, "an Open Inference datatype", repr(tensor.datatype))
        raise _refused(model, spec.name, f"datatype {spec.datatype}", tensor.datatype)
    shape = tuple(tensor.shape)
    fits = len(shape) == len(spec.shape) and all(
        size >= 0 and want in (-1, size) for size, want in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise _refused(model, spec.name, f"shape {list(spec.shape)}", str(list(shape)))
    return shape


def _count(shape: tuple[int, ...], spec: InputSpec, model: LoadedModel) -> int:
    count = 1
    for size in shape:
        count *= size
    if count > _MAX_ELEMENTS:
        raise _refused(model, spec.name, f"at most {_MAX_ELEMENTS} elements", str(list(shape)))
    return count


def _from_raw(content: bytes, spec: InputSpec, shape: tuple[int, ...], model: LoadedModel) -> Array:
    count = _count(shape, spec, model)
    if spec.datatype == "BYTES":
        return _strings(_split(content, count, spec, model)).reshape(shape)
    kind = _WIRE_TYPES[spec.datatype]
    if len(content) != count * kind.itemsize:
        raise _refused(model, spec.name, f"{count * kind.itemsize} bytes for shape {list(shape)}", str(len(content)))
    array: Array = np.frombuffer(content, dtype=kind).reshape(shape)
    return array if spec.datatype != "BOOL" else array.astype(np.bool_)


def _split(content: bytes, count: int, spec: InputSpec, model: LoadedModel) -> list[bytes]:
    items: list[bytes] = []
    position = 0
    while position < len(content) and len(items) <= count:
        start = position + 4
        if start > len(content):
            break
        position = start + _LENGTH.unpack_from(content, start - 4)[0]
        if position > len(content):
            break
        items.append(content[start:position])
    if len(items) != count or position != len(content):
        raise _refused(
            model, spec.name, f"{count} length-prefixed values", f"{len(content)} bytes that hold no such number"
        )
    return items


def _from_typed(contents: pb.InferTensorContents, spec: InputSpec, shape: tuple[int, ...], model: LoadedModel) -> Array:
    field = TYPED_FIELDS.get(spec.datatype)
    if field is None:
        raise _refused(model, spec.name, f"raw_input_contents for {spec.datatype}", "typed contents")
    fields = [descriptor.name for descriptor, _ in contents.ListFields()]
    if fields not in ([], [field]):
        raise _refused(model, spec.name, f"{field} alone", ", ".join(fields))
    values = getattr(contents, field)
    count = _count(shape, spec, model)
    if len(values) != count:
        raise _refused(model, spec.name, f"{count} values for shape {list(shape)}", str(len(values)))
    if spec.datatype == "BYTES":
        return _strings(list(values)).reshape(shape)
    array: Array = np.array(values, dtype=NUMPY_TYPES[spec.datatype]).reshape(shape)
    # The field is wider than the datatype: numpy would cut what does not fit without a word.
    if spec.datatype in _NARROW and not np.array_equal(array.reshape(-1), np.array(values, dtype=np.int64)):
        raise _refused(model, spec.name, f"values that fit {spec.datatype}", "one out of its range")
    return array


def _strings(items: list[bytes]) -> Array:
    array = np.empty(len(items), dtype=object)
    try:
        array[:] = [item.decode() for item in items]
    except UnicodeDecodeError:
        # Not every text is UTF-8; ONNX Runtime takes bytes as they are.
        array[:] = items
    return array


def _check_values(array: Array, spec: InputSpec, model: LoadedModel) -> None:
    """Check missing values, infinities and unknown categories."""
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            _check_floats(array, spec, model)
    elif spec.is_column and array.dtype.kind == "O":
        values = array.reshape(-1).tolist()
        if not spec.nullable and "" in values:
            raise _refused(model, spec.name, "a value in every row, for training had no missing one", "an empty text")
        if spec.known is not None and not spec.known.issuperset(values):
            unknown = next(value for value in values if value not in spec.known)
            raise _refused(model, spec.name, "a category that training saw", repr(unknown))


def _check_floats(array: Array, spec: InputSpec, model: LoadedModel) -> None:
    if np.isinf(array).any():
        raise _refused(model, spec.name, "finite values", "an infinity")
    if spec.is_column and not spec.nullable:
        raise _refused(model, spec.name, "a value in every row, for training had no missing one", "NaN")


def _check_parameters(parameters: Any) -> None:
    unknown = [name for name in parameters if name.startswith("triton_")]
    if unknown:
        raise InvalidArgument(f"unknown parameter {unknown[0]!r}", reason="UNKNOWN_PARAMETER")


def _top(output: "pb.ModelInferRequest.InferRequestedOutputTensor", model: LoadedModel) -> int:
    """Return how many classes a request wants of an output; 0 for its plain values."""
    if _CLASSIFICATION not in output.parameters:
        return 0
    count = output.parameters[_CLASSIFICATION].int64_param
    if count <= 0 or model.outputs[output.name].datatype == "BYTES":
        raise _refused(model, output.name, "classification as a positive int64 on a numeric output", str(count))
    return int(count)


def _refused(model: LoadedModel, tensor: str, expected: str, got: str) -> InvalidArgument:
    of = f", tensor {tensor!r}" if tensor else ""
    return InvalidArgument(
        f"model {model.deployment!r}{of}: expected {expected}, got {got}",
        reason="BAD_TENSOR",
        metadata={"model": model.deployment, "tensor": tensor},
    )
