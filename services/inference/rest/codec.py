"""REST bodies to the gRPC messages of the same protocol, and back: pure.

A request's JSON comes first, as long as the header Inference-Header-Content-Length says; the binary data of its tensors
follows. JSON has no numbers for NaN and the infinities: replies have the texts "NaN", "Infinity" and "-Infinity", as
protobuf's JSON has them. Every JSON parser reads these, and so do NumPy and Python's float(). Requests may have them,
or the bare words that Python's json writes. Optional fields that are null count as absent.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from servicekit.errors import InvalidArgument
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.rest.json_values import is_whole_number, refused, tensor_values, to_json
from services.inference.serving.codec import (
    DATATYPES,
    RESERVED_PARAMETERS,
    TYPED_FIELDS,
    WIRE_TYPES,
    unknown_datatype,
)
from services.inference.serving.model import NUMPY_TYPES
from services.inference.serving.replies import to_raw

# Python reads a number that is too large as an infinity, and a hook for each number takes long.
_MAY_OVERFLOW = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{300}")
_UNTYPED = ("BF16", "FP16")
_BINARY_SIZE, _BINARY, _ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"


class BinaryOutputs:
    """Which outputs a request wants as binary data.

    Args:
        names: those that it says something of.
        default: what holds for the others.
    """

    def __init__(self, names: Mapping[str, bool], *, default: bool) -> None:
        self._names = dict(names)
        self._default = default

    def wants(self, name: str) -> bool:
        """Return whether an output is wanted as binary data."""
        return self._names.get(name, self._default)


def parse_request(
    body: bytes, header_length: int | None, model: str, version: str
) -> tuple[pb.ModelInferRequest, BinaryOutputs]:
    """Return a request's message, and which outputs go as binary data.

    Args:
        body: JSON, with binary data behind it.
        header_length: of the JSON; None for all of the body.
        model: of the path.
        version: of the path; empty where it names none.

    Raises:
        InvalidArgument: it is no such request.
    """
    document, binary = _document(body, header_length)
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=_text(document, "id"))
    parameters = dict(_mapping(document, "parameters", "the request"))
    default = parameters.pop(_ALL_BINARY, False)
    _fill_parameters(request.parameters, parameters, "the request")
    inputs = _list(document, "inputs", "the request")
    sizes = [_binary_size(item) for item in inputs]
    position = 0
    # One request is raw or typed as a whole, and half floats have no typed form.
    is_raw = any(size is not None for size in sizes) or any(item.get("datatype") in _UNTYPED for item in inputs)
    for item, size in zip(inputs, sizes, strict=True):
        tensor = _tensor(request, item)
        if size is not None:
            if position + size > len(binary):
                raise refused(tensor.name, f"{size} bytes of binary data", str(len(binary) - position))
            request.raw_input_contents.append(bytes(binary[position : position + size]))
            position += size
        elif is_raw:
            request.raw_input_contents.append(_raw_of(tensor, item))
        else:
            _fill_contents(tensor, item)
    if position != len(binary):
        raise InvalidArgument(f"{len(binary) - position} bytes of binary data belong to no input", reason="BAD_REQUEST")
    wanted = [_output(request, item) for item in _list(document, "outputs", "the request")]
    return request, BinaryOutputs(dict(pair for pair in wanted if pair is not None), default=bool(default))


def build_reply(reply: pb.ModelInferResponse, binary: BinaryOutputs) -> tuple[bytes, int | None]:
    """Return a reply's body, and the length of its JSON where binary data follows."""
    document: dict[str, Any] = {"model_name": reply.model_name, "model_version": reply.model_version}
    if reply.id:
        document["id"] = reply.id
    if reply.parameters:
        document["parameters"] = _parameters(reply.parameters)
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for place, output in enumerate(reply.outputs):
        raw = reply.raw_output_contents[place] if reply.raw_output_contents else None
        told: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
        if binary.wants(output.name):
            blobs.append(raw if raw is not None else _packed(output))
            told["parameters"] = {_BINARY_SIZE: len(blobs[-1])}
        else:
            told["data"] = _values(output, raw)
        outputs.append(told)
    document["outputs"] = outputs
    header = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    return b"".join((header, *blobs)), len(header) if blobs else None


def _document(body: bytes, header_length: int | None) -> tuple[dict[str, Any], memoryview]:
    length = len(body) if header_length is None else header_length
    if not 0 <= length <= len(body):
        raise InvalidArgument(
            f"Inference-Header-Content-Length: expected at most {len(body)}, the body's length, got {length}",
            reason="BAD_REQUEST",
        )
    return load_json(body[:length]), memoryview(body)[length:]


def fill_load_parameters(request: pb.RepositoryModelLoadRequest, document: Mapping[str, Any]) -> None:
    """Take over the parameters of a load, for the servicer to refuse by name.

    Raises:
        InvalidArgument: they are no parameters.
    """
    for name in _mapping(document, "parameters", "the request"):
        if not name.isascii():
            raise InvalidArgument("parameters of the request: expected names in ASCII", reason="BAD_PARAMETER")
        request.parameters[name].bool_param = True


def load_json(text: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        InvalidArgument: it is none, or says something twice.
    """
    try:
        parse_float = _finite if _MAY_OVERFLOW.search(text) else None
        found = json.loads(text, object_pairs_hook=_unique, parse_float=parse_float)
    except (ValueError, RecursionError) as error:
        why = "it is too deeply nested" if isinstance(error, RecursionError) else str(error)[:200]
        raise InvalidArgument(f"the body is not JSON: {why}", reason="NOT_JSON") from error
    if not isinstance(found, dict):
        raise InvalidArgument("the body: expected a JSON object", reason="NOT_JSON")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is beyond what a double holds")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _tensor(request: pb.ModelInferRequest, item: Mapping[str, Any]) -> "pb.ModelInferRequest.InferInputTensor":
    name = _text(item, "name")
    if not name:
        raise InvalidArgument("inputs: expected objects with a name", reason="BAD_REQUEST")
    tensor = request.inputs.add(name=name, datatype=_text(item, "datatype"))
    if tensor.datatype not in DATATYPES:
        raise refused(name, f"one of the datatypes {', '.join(sorted(DATATYPES))}", unknown_datatype(tensor.datatype))
    try:
        tensor.shape.extend(_shape(name, item.get("shape")))
    except ValueError:
        raise refused(name, "a shape of 64-bit integers", json.dumps(item.get("shape"))[:80]) from None
    parameters = {key: value for key, value in _mapping(item, "parameters", name).items() if key != _BINARY_SIZE}
    _fill_parameters(tensor.parameters, parameters, name)
    return tensor


def _shape(name: str, shape: Any) -> list[int]:
    # R writes a list of one number as the number.
    sizes = shape if isinstance(shape, list) else [shape]
    if any(type(size) is not int and not is_whole_number(size) for size in sizes):
        raise refused(name, "shape, a list of integers", json.dumps(shape)[:80])
    return [int(size) for size in sizes]


def _binary_size(item: Any) -> int | None:
    if not isinstance(item, dict):
        raise InvalidArgument("inputs: expected objects with a name", reason="BAD_REQUEST")
    parameters = item.get("parameters")
    size = parameters.get(_BINARY_SIZE) if isinstance(parameters, dict) else None
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidArgument(f"{_BINARY_SIZE}: expected a number of bytes, got {size!r:.40}", reason="BAD_REQUEST")
    if item.get("data") not in (None, []):
        raise InvalidArgument(f"an input has {_BINARY_SIZE} and data: expected one of them", reason="BAD_REQUEST")
    return size


def _fill_contents(tensor: "pb.ModelInferRequest.InferInputTensor", item: Any) -> None:
    values = tensor_values(tensor.name, tensor.datatype, item)
    field = TYPED_FIELDS.get(tensor.datatype)
    if field is None:
        raise refused(tensor.name, f"{_BINARY_SIZE} for a tensor of {tensor.datatype}", "data")
    try:
        getattr(tensor.contents, field).extend(values)
    except (TypeError, ValueError, OverflowError):
        raise refused(tensor.name, f"data that fits {tensor.datatype}", "a value that does not") from None
    # An empty list leaves no trace by itself; the request is typed all the same.
    tensor.contents.SetInParent()


def _raw_of(tensor: "pb.ModelInferRequest.InferInputTensor", item: Any) -> bytes:
    values = tensor_values(tensor.name, tensor.datatype, item)
    if tensor.datatype == "BYTES":
        return to_raw("BYTES", np.array(values, dtype=object))
    if tensor.datatype not in NUMPY_TYPES:
        raise refused(tensor.name, f"{_BINARY_SIZE} for a tensor of {tensor.datatype}", "data")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype=NUMPY_TYPES[tensor.datatype]).tobytes()
    except (OverflowError, ValueError, TypeError):
        raise refused(tensor.name, f"data that fits {tensor.datatype}", "a value that does not") from None


def _output(request: pb.ModelInferRequest, item: Any) -> tuple[str, bool] | None:
    name = _text(item, "name") if isinstance(item, dict) else ""
    if not name:
        raise InvalidArgument("outputs: expected objects with a name", reason="BAD_REQUEST")
    parameters = dict(_mapping(item, "parameters", name))
    binary = parameters.pop(_BINARY, None)
    _fill_parameters(request.outputs.add(name=name).parameters, parameters, name)
    return None if binary is None else (name, bool(binary))


def _fill_parameters(target: Any, parameters: Mapping[str, Any], what: str) -> None:
    fields = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in parameters.items():
        field = fields.get(type(value))
        if value is None or (field is None and name not in RESERVED_PARAMETERS):
            # MLServer's clients send objects, such as the headers of a call; others have no meaning here.
            continue
        try:
            if field is None:
                raise ValueError
            setattr(target[name], field, value)
        except ValueError:
            raise InvalidArgument(
                f"parameter {name[:64]!r} of {what}: expected a bool, a 64-bit integer, a number or a text",
                reason="BAD_PARAMETER",
            ) from None


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "bool_param") for name, value in parameters.items()
    }


def _values(output: "pb.ModelInferResponse.InferOutputTensor", raw: bytes | None) -> Sequence[Any]:
    if raw is None:
        values: Sequence[Any] = list(getattr(output.contents, TYPED_FIELDS[output.datatype]))
    elif output.datatype == "BYTES":
        values = list(_split(raw))
    else:
        return to_json(np.frombuffer(raw, dtype=WIRE_TYPES[output.datatype]))
    if output.datatype in ("FP32", "FP64"):
        return to_json(np.array(values, dtype=NUMPY_TYPES[output.datatype]))
    if output.datatype != "BYTES":
        return values
    # What is no UTF-8 has no JSON form: ask for it as binary data.
    return [value.decode("utf-8", "replace") for value in values]


def _packed(output: "pb.ModelInferResponse.InferOutputTensor") -> bytes:
    values = list(getattr(output.contents, TYPED_FIELDS[output.datatype]))
    kind: Any = object if output.datatype == "BYTES" else NUMPY_TYPES[output.datatype]
    array = np.empty(len(values), dtype=kind)
    array[:] = values
    return to_raw(output.datatype, array)


def _split(raw: bytes) -> Any:
    position = 0
    while position < len(raw):
        start = position + 4
        position = start + int.from_bytes(raw[position:start], "little")
        yield raw[start:position]


def _mapping(item: Mapping[str, Any], key: str, what: str) -> Mapping[str, Any]:
    found = item.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidArgument(f"{key} of {what}: expected an object", reason="BAD_REQUEST")
    return found


def _list(item: Mapping[str, Any], key: str, what: str) -> list[Any]:
    found = item.get(key)
    if found is None:
        return []
    if not isinstance(found, list):
        raise InvalidArgument(f"{key} of {what}: expected a list", reason="BAD_REQUEST")
    return found


def _text(item: Mapping[str, Any], key: str) -> str:
    found = item.get(key)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InvalidArgument(f"{key}: expected a text", reason="BAD_REQUEST")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{key}: expected UTF-8", reason="BAD_REQUEST") from None
    return found
