"""Open Inference requests to arrays: pure; a refusal names model, tensor, expected and got."""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from servicekit.errors import InvalidArgument, Unimplemented
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
DATATYPES = frozenset((*NUMPY_TYPES, "BYTES"))
WIRE_TYPES = {name: np.dtype(kind).newbyteorder("<") for name, kind in NUMPY_TYPES.items()}
_LENGTH = struct.Struct("<I")
# A request of the largest size cannot name more elements; a product beyond is an overflow in waiting.
_MAX_ELEMENTS = 1 << 40
# NumPy's own limit.
_MOST_DIMENSIONS = 64
_MAX_PADDED_BYTES = 1 << 28
_CLASSIFICATION = "classification"
_TIMEOUT = "timeout"
_CONTENT_TYPE = "content_type"
_MICROSECONDS = 1e6
# Parameters of the protocol that ask for what models here do not have: passed over, they would be obeyed in part.
_SEQUENCES, _PRIORITY = ("sequence_id", "sequence_start", "sequence_end"), "priority"
RESERVED_PARAMETERS = frozenset((*_SEQUENCES, _PRIORITY, _TIMEOUT, _CLASSIFICATION))
# What other programs call the datatypes.
_OTHER_NAMES = {
    "BFLOAT16": "BF16", "BOOLEAN": "BOOL", "DOUBLE": "FP64", "FLOAT": "FP32", "FLOAT16": "FP16", "FLOAT32": "FP32",
    "FLOAT64": "FP64", "HALF": "FP16", "INT": "INT64", "LONG": "INT64", "OBJECT": "BYTES", "STR": "BYTES",
    "STRING": "BYTES", "TEXT": "BYTES",
}  # fmt: skip
_COMPLETE = "a value in every row, for training had no missing one"
# Triton's clients ask so for an empty last reply of models that give several; ours give one, which is the last.
EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
# Requests of the same key go to the same version of a deployment that is split: in the request, or beside it.
STICKY_PARAMETER = "lepton_sticky_key"
STICKY_METADATA = "lepton-sticky-key"


def parse_inputs(request: pb.ModelInferRequest, model: LoadedModel) -> dict[str, Array]:
    """Return a request's inputs by name, checked against the model.

    Raises:
        InvalidArgument: a tensor lacks, is unknown, stands twice, or is not what the model takes.
        Unimplemented: a tensor lies in shared memory.
    """
    _check_parameters(request.parameters)
    tensors = request.inputs
    raw = _raw_contents(request, model)
    arrays: dict[str, Array] = {}
    batches: dict[str, int] = {}
    steps: int | None = None
    for index, tensor in enumerate(tensors):
        spec = model.inputs.get(tensor.name)
        if spec is None or tensor.name in arrays:
            word = "is unknown" if spec is None else "stands twice"
            raise _refused(model, tensor.name, f"inputs {', '.join(model.inputs)}", f"one that {word}")
        if tensor.parameters:
            _check_parameters(tensor.parameters)
        shape = _checked_shape(tensor, spec, model)
        if raw:
            # Some clients send an empty message with every tensor.
            if tensor.HasField("contents") and tensor.contents.ListFields():
                raise _refused(model, tensor.name, "raw_input_contents alone", "typed contents beside them")
            array = _from_raw(raw[index], spec, shape, model)
        else:
            array = _from_typed(tensor.contents, spec, shape, model)
        if is_base64(tensor):
            array = _from_base64(array, spec, model)
        if spec.batch is not None and batches.setdefault(spec.batch, shape[0]) != shape[0]:
            expected = f"a batch of {batches[spec.batch]}, as the inputs before"
            raise _refused(model, tensor.name, expected, str(shape[0]))
        if spec.is_series:
            steps = shape[1] if steps is None else steps
            if shape[1] != steps:
                raise _refused(model, tensor.name, f"{steps} steps, as the series before", str(shape[1]))
        check_values(array, spec, model)
        arrays[tensor.name] = array
    if len(arrays) != len(model.inputs) and (
        lacking := [spec.name for spec in model.inputs.values() if spec.name not in arrays and not spec.is_optional]
    ):
        raise _refused(model, lacking[0], "every input of the model", f"no {', '.join(lacking)}")
    return arrays


def _raw_contents(request: pb.ModelInferRequest, model: LoadedModel) -> Sequence[bytes]:
    """Return the bytes of each input; nothing where the request is typed."""
    raw, tensors = request.raw_input_contents, request.inputs
    if not raw or len(raw) == len(tensors):
        return raw
    # Some clients send nothing for a tensor without elements.
    if len(raw) == sum(0 not in tensor.shape for tensor in tensors):
        rest = iter(raw)
        return [b"" if 0 in tensor.shape else next(rest) for tensor in tensors]
    raise _refused(model, "", f"one raw_input_contents entry per input ({len(tensors)})", str(len(raw)))


def is_base64(tensor: "pb.ModelInferRequest.InferInputTensor") -> bool:
    """Return whether a tensor's texts are bytes in base64, as MLServer's clients write those that are no text."""
    if tensor.datatype != "BYTES" or _CONTENT_TYPE not in tensor.parameters:
        return False
    return tensor.parameters[_CONTENT_TYPE].string_param == "base64"


def _from_base64(array: Array, spec: InputSpec, model: LoadedModel) -> Array:
    try:
        items = [base64.b64decode(item, validate=True) for item in array.reshape(-1).tolist()]
    except ValueError:
        raise _refused(model, spec.name, "base64, as its content_type says", "a text that is none") from None
    return _strings(items, array.shape, spec, model)


def is_raw_request(request: pb.ModelInferRequest) -> bool:
    """Return whether a request gets a raw reply: it came raw, or brings no tensor at all that would say."""
    return bool(request.raw_input_contents) or not any(tensor.HasField("contents") for tensor in request.inputs)


def timeout_seconds(request: pb.ModelInferRequest) -> float | None:
    """Return how long a request may take by its parameter `timeout`, microseconds, as Triton has it; None for no limit.

    Raises:
        InvalidArgument: it is no integer, or is below 0; 0 means no limit, as for Triton.
    """
    if _TIMEOUT not in request.parameters:
        return None
    return _whole(request.parameters[_TIMEOUT], _TIMEOUT, "microseconds") / _MICROSECONDS or None


def requested_outputs(request: pb.ModelInferRequest, model: LoadedModel) -> list[str]:
    """Return the names of the outputs that a request wants, in its order; all where it names none.

    Raises:
        InvalidArgument: an output is unknown or stands twice, or cannot be given in the form that is asked for.
        Unimplemented: an output is to be left in shared memory.
    """
    if not request.outputs:
        return list(model.outputs)
    names = [output.name for output in request.outputs]
    for output in request.outputs:
        if output.name not in model.outputs or names.count(output.name) > 1:
            word = "stands twice" if output.name in model.outputs else "is unknown"
            raise _refused(model, output.name, f"outputs {', '.join(model.outputs)}", f"one that {word}")
        _check_parameters(output.parameters)
        wanted_classes(output, model)
    return names


def sticky_key_of(request: pb.ModelInferRequest) -> str:
    """Return the key by which requests stay with one version; empty where there is none.

    Raises:
        InvalidArgument: it is no text.
    """
    if STICKY_PARAMETER not in request.parameters:
        return ""
    parameter = request.parameters[STICKY_PARAMETER]
    if parameter.WhichOneof("parameter_choice") not in ("string_param", None):
        raise InvalidArgument(f"parameter {STICKY_PARAMETER} must be a string", reason="BAD_PARAMETER")
    return parameter.string_param


def _checked_shape(
    tensor: "pb.ModelInferRequest.InferInputTensor", spec: InputSpec, model: LoadedModel
) -> tuple[int, ...]:
    if tensor.datatype != spec.datatype:
        if tensor.datatype not in DATATYPES:
            raise _refused(model, spec.name, f"datatype {spec.datatype}", unknown_datatype(tensor.datatype))
        raise _refused(model, spec.name, f"datatype {spec.datatype}", tensor.datatype)
    shape = tuple(tensor.shape)
    if spec.any_rank:
        if any(size < 0 for size in shape) or len(shape) > _MOST_DIMENSIONS:
            raise _refused(model, spec.name, f"at most {_MOST_DIMENSIONS} sizes from 0 on", str(list(shape[:99])))
        return shape
    if len(shape) != len(spec.shape):
        raise _refused(model, spec.name, f"shape {list(spec.shape)}", str(list(shape)))
    for size, want in zip(shape, spec.shape, strict=True):
        if size < 0 or want not in (-1, size):
            raise _refused(model, spec.name, f"shape {list(spec.shape)}", str(list(shape)))
    # Without elements a row has no bytes, and bytes bound nothing.
    if (spec.counts_rows or 0 in shape[1:]) and shape[0] > model.max_rows:
        raise _refused(model, spec.name, f"at most {model.max_rows} rows", str(shape[0]))
    return shape


def unknown_datatype(name: str) -> str:
    """Return how a refusal names a datatype that the protocol does not have, with the one that was probably meant."""
    known = name.strip().upper().removeprefix("TYPE_")
    known = _OTHER_NAMES.get(known, known)
    meant = f" (did you mean {known!r}?)" if known in DATATYPES else ""
    return f"the unknown datatype {name[:32]!r}{meant}" if name else "no datatype"


def element_count(shape: tuple[int, ...], spec: InputSpec, model: LoadedModel) -> int:
    """Return how many elements a checked shape has.

    Raises:
        InvalidArgument: more than there can be.
    """
    count = bound = 1
    for size in shape:
        count *= size
        bound *= size or 1
    # An empty tensor may not have an impossible shape either: numpy's own arithmetic would overflow.
    if bound > _MAX_ELEMENTS:
        raise _refused(model, spec.name, f"at most {_MAX_ELEMENTS} elements", str(list(shape)))
    return count


def _from_raw(content: bytes, spec: InputSpec, shape: tuple[int, ...], model: LoadedModel) -> Array:
    count = element_count(shape, spec, model)
    if spec.datatype == "BYTES":
        return _strings(_split(content, count, spec, model), shape, spec, model)
    kind = WIRE_TYPES[spec.datatype]
    if len(content) != count * kind.itemsize:
        raise _refused(model, spec.name, f"{count * kind.itemsize} bytes for shape {list(shape)}", str(len(content)))
    if spec.datatype != "BOOL":
        return np.ndarray(shape, kind, content)
    # Of an array without axes numpy returns a scalar, which is no array.
    return np.asarray(np.ndarray(shape, np.uint8, content) != 0)


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
    count = element_count(shape, spec, model)
    if len(values) != count:
        raise _refused(model, spec.name, f"{count} values for shape {list(shape)}", str(len(values)))
    if spec.datatype == "BYTES":
        return _strings(list(values), shape, spec, model)
    array: Array = np.array(values, dtype=NUMPY_TYPES[spec.datatype]).reshape(shape)
    # The field is wider than the datatype: numpy would cut what does not fit without a word.
    if spec.datatype in _NARROW and not np.array_equal(array.reshape(-1), np.array(values, dtype=np.int64)):
        raise _refused(model, spec.name, f"values that fit {spec.datatype}", "one out of its range")
    return array


def _strings(items: list[bytes], shape: tuple[int, ...], spec: InputSpec, model: LoadedModel) -> Array:
    """Return texts as ONNX Runtime takes them."""
    try:
        texts = [item.decode() for item in items]
    except UnicodeDecodeError as error:
        # What is not UTF-8 goes as it is, by a type whose items end at a zero byte and are all as long as the longest.
        if any(b"\0" in item for item in items) or max(map(len, items)) * len(items) > _MAX_PADDED_BYTES:
            raise _refused(model, spec.name, "UTF-8 text, or short bytes without a zero", "neither") from error
        return np.array(items, dtype=np.bytes_).reshape(shape)
    array = np.empty(shape, dtype=object)
    array.flat[:] = texts
    return array


def check_values(array: Array, spec: InputSpec, model: LoadedModel) -> None:
    """Check missing values, infinities and unknown categories.

    Raises:
        InvalidArgument: some value is none that the input takes.
    """
    wrong = wrong_values(array, spec)
    if wrong is not None:
        error = _refused(model, spec.name, *wrong)
        # An unknown category is named.
        error.holds_values = True
        raise error


def wrong_values(array: Array, spec: InputSpec) -> tuple[str, str] | None:
    """Return what was expected and what some value is instead; None where all are well."""
    if not spec.is_column:
        # Models made elsewhere take what they take: attention, for one, is masked by minus infinity.
        return None
    kind = array.dtype.kind
    if kind == "f":
        # Most predictions are of one row, and NumPy takes ten times as long for one value.
        is_finite = math.isfinite(array.item()) if array.size == 1 else np.isfinite(array).all()
        return None if is_finite else _wrong_floats(array, spec)
    if kind in "OS":
        return _wrong_texts(array.ravel().tolist(), spec)
    return None


def are_known(texts: list[str], spec: InputSpec) -> bool:
    """Return whether a column takes these texts: none missing or unknown where it insists."""
    if not spec.is_column:
        return True
    if not (spec.nullable or "" not in texts) or not (spec.known is None or spec.known.issuperset(texts)):
        return False
    count_unknown(texts, spec)
    return True


def count_unknown(texts: Sequence[str | bytes], spec: InputSpec) -> int:
    """Count the texts that are none of a column's categories, for its metrics; return how many these are."""
    if spec.categories is None:
        return 0
    found = 0
    if not spec.categories.issuperset(texts):
        found = sum(text not in spec.categories for text in texts)
    spec.unknown.values += len(texts)
    spec.unknown.unknown += found
    return found


def _wrong_floats(array: Array, spec: InputSpec) -> tuple[str, str] | None:
    if np.isinf(array).any():
        return "finite values", "an infinity"
    if not spec.nullable:
        return _COMPLETE, "NaN"
    return None


def _wrong_texts(values: list[str | bytes], spec: InputSpec) -> tuple[str, str] | None:
    if not spec.nullable and ("" in values or b"" in values):
        return _COMPLETE, "an empty text"
    if spec.known is not None and not spec.known.issuperset(values):
        return "a category that training saw", "another one"
    count_unknown(values, spec)
    return None


def _check_parameters(parameters: Any) -> None:
    """Check that none of a request's, an input's or an output's parameters asks for what is not done.

    Raises:
        InvalidArgument: one is unknown, or of the wrong kind.
        Unimplemented: one asks for shared memory, a sequence or a priority.
    """
    for name in parameters:
        if name in _SEQUENCES and _is_asked_for(parameters[name]):
            raise Unimplemented(
                f"parameter {name!r}: models here keep nothing between requests; send each request without a sequence",
                reason="NO_SEQUENCES",
            )
        if name == _PRIORITY and _whole(parameters[name], name, "a level"):
            raise Unimplemented(
                f"parameter {name!r}: requests have no priorities, send it as 0 or not at all", reason="NO_PRIORITIES"
            )
        if name.startswith("shared_memory_"):
            raise Unimplemented(
                f"parameter {name!r}: shared memory is not supported, send tensors in the request",
                reason="NO_SHARED_MEMORY",
            )
        if name.startswith("triton_") and name != EMPTY_FINAL_RESPONSE:
            raise InvalidArgument(f"unknown parameter {name!r}", reason="UNKNOWN_PARAMETER")


def _is_asked_for(parameter: Any) -> bool:
    choice = parameter.WhichOneof("parameter_choice")
    return choice is not None and bool(getattr(parameter, choice))


def _whole(parameter: Any, name: str, unit: str) -> int:
    value = _integer(parameter)
    if value < 0:
        raise InvalidArgument(
            f"parameter {name!r}: expected {unit}, an integer that is not below 0", reason="BAD_PARAMETER"
        )
    return value


def _integer(parameter: Any) -> int:
    """Return a parameter's whole number, which some clients write as 1.0; 0 for an empty one, -1 for none."""
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        return 0
    value = getattr(parameter, choice)
    is_whole = choice in ("int64_param", "uint64_param") or (choice == "double_param" and value.is_integer())
    return int(value) if is_whole else -1


def wanted_classes(output: "pb.ModelInferRequest.InferRequestedOutputTensor", model: LoadedModel) -> int:
    """Return how many classes a request wants of an output; 0 for its plain values.

    Raises:
        InvalidArgument: the parameter is no positive int64, or the output has no numbers.
    """
    if _CLASSIFICATION not in output.parameters:
        return 0
    count = _integer(output.parameters[_CLASSIFICATION])
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
