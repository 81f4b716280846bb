"""REST bodies to the gRPC messages of the same protocol, and back: pure.

A request's JSON comes first, as long as the header Inference-Header-Content-Length says; the binary data of its tensors
follows. NaN and the infinities are written as JavaScript has them (NaN, Infinity), as Triton does: JSON has no word for
them, and leaving them out would lose what the model said.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from servicekit.errors import InvalidArgument
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.codec import TYPED_FIELDS, WIRE_TYPES
from services.inference.serving.model import NUMPY_TYPES
from services.inference.serving.replies import to_raw

_BINARY_SIZE, _BINARY, _ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
_DEEPEST = 32
_MICROSECONDS = 1e6
_NUMBERS = {"BOOL": (bool,), "FP32": (int, float), "FP64": (int, float), "BYTES": (str,)}


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
    is_raw = any(size is not None for size in sizes)
    for item, size in zip(inputs, sizes, strict=True):
        tensor = _tensor(request, item)
        if size is not None:
            if position + size > len(binary):
                raise _refused(tensor.name, f"{size} bytes of binary data", str(len(binary) - position))
            request.raw_input_contents.append(bytes(binary[position : position + size]))
            position += size
        elif is_raw:
            # One request is raw or typed as a whole.
            request.raw_input_contents.append(_raw_of(tensor, item))
        else:
            _fill_contents(tensor, item)
    if position != len(binary):
        raise InvalidArgument(f"{len(binary) - position} bytes of binary data belong to no input", reason="BAD_REQUEST")
    wanted = [_output(request, item) for item in _list(document, "outputs", "the request", required=False)]
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
        # Half floats have no JSON form in the protocol.
        if binary.wants(output.name) or output.datatype == "FP16":
            blobs.append(raw if raw is not None else _packed(output))
            told["parameters"] = {_BINARY_SIZE: len(blobs[-1])}
        else:
            told["data"] = _values(output, raw)
        outputs.append(told)
    document["outputs"] = outputs
    header = json.dumps(document, separators=(",", ":")).encode()
    return b"".join((header, *blobs)), len(header) if blobs else None


def _document(body: bytes, header_length: int | None) -> tuple[dict[str, Any], memoryview]:
    length = len(body) if header_length is None else header_length
    if not 0 <= length <= len(body):
        raise InvalidArgument(
            f"Inference-Header-Content-Length: expected at most {len(body)}, the body's length, got {length}",
            reason="BAD_REQUEST",
        )
    return load_json(body[:length]), memoryview(body)[length:]


def timeout_seconds(request: pb.ModelInferRequest) -> float | None:
    """Return how long a request may take by its parameter `timeout`, microseconds, as Triton has it; None for no limit.

    Raises:
        InvalidArgument: it is no positive integer; 0 means none, as for Triton.
    """
    if "timeout" not in request.parameters:
        return None
    parameter = request.parameters["timeout"]
    if parameter.WhichOneof("parameter_choice") != "int64_param" or parameter.int64_param < 0:
        raise InvalidArgument("parameter 'timeout': expected microseconds, an integer", reason="BAD_PARAMETER")
    return parameter.int64_param / _MICROSECONDS or None


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
        found = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        why = "it is too deeply nested" if isinstance(error, RecursionError) else str(error)[:200]
        raise InvalidArgument(f"the body is not JSON: {why}", reason="NOT_JSON") from error
    if not isinstance(found, dict):
        raise InvalidArgument("the body: expected a JSON object", reason="NOT_JSON")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _tensor(request: pb.ModelInferRequest, item: Any) -> "pb.ModelInferRequest.InferInputTensor":
    name = _text(item, "name") if isinstance(item, dict) else ""
    if not name:
        raise InvalidArgument("inputs: expected objects with a name", reason="BAD_REQUEST")
    shape = item.get("shape")
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise _refused(name, "shape, a list of integers", json.dumps(shape)[:80])
    tensor = request.inputs.add(name=name, datatype=_text(item, "datatype"))
    try:
        tensor.shape.extend(shape)
    except ValueError:
        raise _refused(name, "a shape of 64-bit integers", str(shape)[:80]) from None
    parameters = {key: value for key, value in _mapping(item, "parameters", name).items() if key != _BINARY_SIZE}
    _fill_parameters(tensor.parameters, parameters, name)
    return tensor


def _binary_size(item: Any) -> int | None:
    parameters = item.get("parameters") if isinstance(item, dict) else None
    size = parameters.get(_BINARY_SIZE) if isinstance(parameters, dict) else None
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise InvalidArgument(f"{_BINARY_SIZE}: expected a number of bytes, got {size!r:.40}", reason="BAD_REQUEST")
    if "data" in item:
        raise InvalidArgument(f"an input has {_BINARY_SIZE} and data: expected one of them", reason="BAD_REQUEST")
    return size


def _fill_contents(tensor: "pb.ModelInferRequest.InferInputTensor", item: Any) -> None:
    values = _flat(tensor, item)
    field = TYPED_FIELDS.get(tensor.datatype)
    if field is None:
        raise _refused(tensor.name, f"{_BINARY_SIZE} for a tensor of {tensor.datatype[:16] or 'no datatype'}", "data")
    try:
        getattr(tensor.contents, field).extend(values)
    except (TypeError, ValueError, OverflowError):
        raise _refused(tensor.name, f"data that fits {tensor.datatype}", "a value that does not") from None


def _raw_of(tensor: "pb.ModelInferRequest.InferInputTensor", item: Any) -> bytes:
    values = _flat(tensor, item)
    if tensor.datatype == "BYTES":
        return to_raw("BYTES", np.array(values, dtype=object))
    if tensor.datatype not in NUMPY_TYPES or tensor.datatype == "FP16":
        raise _refused(tensor.name, f"{_BINARY_SIZE} for a tensor of {tensor.datatype[:16] or 'no datatype'}", "data")
    try:
        return np.array(values, dtype=NUMPY_TYPES[tensor.datatype]).tobytes()
    except (OverflowError, ValueError, TypeError):
        raise _refused(tensor.name, f"data that fits {tensor.datatype}", "a value that does not") from None


def _flat(tensor: "pb.ModelInferRequest.InferInputTensor", item: Any) -> list[Any]:
    """Return a tensor's values in row-major order; nested lists and flat ones mean the same."""
    data = item.get("data")
    if not isinstance(data, list):
        raise _refused(tensor.name, f"data, a list, or {_BINARY_SIZE}", type(data).__name__)
    for _ in range(_DEEPEST):
        if not any(type(value) is list for value in data):
            break
        if not all(type(value) is list for value in data):
            raise _refused(tensor.name, "data nested evenly", "lists beside values")
        data = [value for part in data for value in part]
    else:
        raise _refused(tensor.name, f"data nested at most {_DEEPEST} deep", "more")
    kinds = _NUMBERS.get(tensor.datatype, (int,))
    # A bool is an int to Python, and none to the protocol.
    if any(type(value) not in kinds for value in data):
        raise _refused(tensor.name, f"data of {tensor.datatype[:16] or 'a datatype'}", "a value of another kind")
    if tensor.datatype != "BYTES":
        return data
    try:
        return [value.encode() for value in data]
    except UnicodeEncodeError:
        raise _refused(tensor.name, "UTF-8 text", "half a surrogate pair") from None


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
        values = np.frombuffer(raw, dtype=WIRE_TYPES[output.datatype]).tolist()
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
    found = item.get(key, {})
    if not isinstance(found, dict):
        raise InvalidArgument(f"{key} of {what}: expected an object", reason="BAD_REQUEST")
    return found


def _list(item: Mapping[str, Any], key: str, what: str, *, required: bool = True) -> list[Any]:
    found = item.get(key, None if required else [])
    if not isinstance(found, list):
        raise InvalidArgument(f"{key} of {what}: expected a list", reason="BAD_REQUEST")
    return found


def _text(item: Mapping[str, Any], key: str) -> str:
    found = item.get(key, "")
    if not isinstance(found, str):
        raise InvalidArgument(f"{key}: expected a text", reason="BAD_REQUEST")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{key}: expected UTF-8", reason="BAD_REQUEST") from None
    return found


def _refused(tensor: str, expected: str, got: str) -> InvalidArgument:
    return InvalidArgument(
        f"tensor {tensor!r}: expected {expected}, got {got}", reason="BAD_TENSOR", metadata={"tensor": tensor[:64]}
    )
