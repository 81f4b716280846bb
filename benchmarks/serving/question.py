"""One request: what it asks, how it is written for each protocol, and what must come back."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from servicekit.ort_datatypes import ORT_DATATYPES
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.serving.model import NUMPY_TYPES

Array = np.ndarray[Any, Any]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
# Kernels of another build may add up in another order.
_TOLERANCE = 1e-3
_TYPED = ("fp32_contents", "fp64_contents", "int64_contents", "int_contents", "bytes_contents", "bool_contents")


@dataclass(frozen=True)
class Question:
    """One row asked of a model.

    Args:
        model: its name on every server.
        onnx: the file that every server runs.
        inputs: (1, ...) by name; texts as objects.
        evaluation: CSV of rows and labels that plans are judged on; None for none.
        is_class: whether a reply is right that gives the right class: where plans round differently.
    """

    model: str
    onnx: Path
    inputs: Mapping[str, Array]
    evaluation: Path | None = None
    is_class: bool = False

    def is_right(self, outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
        """Return whether all expected outputs came, and came right."""
        if self.is_class:
            return all(
                name in outputs and outputs[name].argmax() == values.argmax() for name, values in expected.items()
            )
        return is_same(outputs, expected)

    def expected(self) -> dict[str, Array]:
        """Return the right answer, by running the file here."""
        session = ort.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])
        return dict(zip((item.name for item in session.get_outputs()), session.run(None, self.inputs), strict=True))

    def datatypes(self) -> dict[str, str]:
        """Return the inputs' datatypes by name."""
        session = ort.InferenceSession(self.onnx, providers=["CPUExecutionProvider"])
        return {item.name: ORT_DATATYPES[item.type] for item in session.get_inputs()}

    def protobuf(self) -> bytes:
        """Return a serialised ModelInferRequest with raw tensors."""
        request = pb.ModelInferRequest(model_name=self.model)
        for name, datatype in self.datatypes().items():
            values = self.inputs[name]
            request.inputs.add(name=name, datatype=datatype, shape=values.shape)
            request.raw_input_contents.append(_raw(values))
        return request.SerializeToString()

    def json(self) -> bytes:
        """Return the same in the protocol's JSON, which the servers without gRPC are made to take, too."""
        tensors = [
            {"name": name, "datatype": datatype, "shape": self.inputs[name].shape, "data": self.inputs[name].tolist()}
            for name, datatype in self.datatypes().items()
        ]
        return json.dumps({"inputs": tensors}).encode()


def frame(message: bytes) -> bytes:
    """Return a message as gRPC frames it: not compressed, its length, itself."""
    return struct.pack(">BI", 0, len(message)) + message


def read_protobuf(reply: bytes) -> dict[str, Array]:
    """Return the outputs of a serialised ModelInferResponse by name."""
    response = pb.ModelInferResponse.FromString(reply)
    if not response.raw_output_contents:
        return {item.name: np.array(_typed(item.contents)).reshape(item.shape) for item in response.outputs}
    return {
        item.name: _from_raw(item.datatype, content).reshape(item.shape)
        for item, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def read_json(reply: bytes) -> dict[str, Array]:
    """Return the outputs of a JSON reply by name."""
    return {item["name"]: np.array(item["data"]).reshape(item["shape"]) for item in json.loads(reply)["outputs"]}


def is_same(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    """Return whether all expected outputs came, and came right."""
    return all(name in outputs and _equal(outputs[name], values) for name, values in expected.items())


def _equal(found: Array, expected: Array) -> bool:
    if found.size != expected.size:
        return False
    if expected.dtype == object or expected.dtype.kind in "US":
        return _texts(found) == _texts(expected)
    return bool(np.allclose(found.reshape(-1), expected.reshape(-1), rtol=_TOLERANCE, atol=_TOLERANCE))


def _texts(values: Array) -> list[str]:
    return [item.decode() if isinstance(item, bytes) else str(item) for item in values.reshape(-1)]


def _typed(contents: pb.InferTensorContents) -> list[Any]:
    for name in _TYPED:
        if values := getattr(contents, name):
            return list(values)
    return []


def _raw(values: Array) -> bytes:
    if values.dtype != object:
        return np.ascontiguousarray(values).tobytes()
    texts = [str(value).encode() for value in values.reshape(-1)]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _from_raw(datatype: str, content: bytes) -> Array:
    if datatype != "BYTES":
        return np.frombuffer(content, dtype=NUMPY_TYPES[datatype])
    texts: list[bytes] = []
    position = 0
    while position < len(content):
        (length,) = struct.unpack_from("<I", content, position)
        texts.append(content[position + 4 : position + 4 + length])
        position += 4 + length
    return np.array(texts, dtype=object)
