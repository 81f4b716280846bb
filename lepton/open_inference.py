"""The few messages of the Open Inference Protocol that the SDK speaks, in a descriptor pool of their own.

tritonclient and other clients register the same `inference.*` symbols in protobuf's default pool; a program that
imports one of them beside Lepton must not clash. Fields and numbers are the published ones.
"""

import struct
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pandas as pd
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from lepton import errors
from lepton.column_types import to_moments, to_texts
from lepton.column_values import NUMPY_TYPES, to_numbers, to_steps
from lepton.v1 import common_pb2

_PACKAGE = "inference"
_SERVICE = "/inference.GRPCInferenceService/"
_Field = descriptor_pb2.FieldDescriptorProto

# Name, number, type, repeated; a type that starts with a dot is a message.
_MESSAGES: dict[str, tuple[tuple[str, int, "int | str", bool], ...]] = {
    "Tensor": (
        ("name", 1, _Field.TYPE_STRING, False),
        ("datatype", 2, _Field.TYPE_STRING, False),
        ("shape", 3, _Field.TYPE_INT64, True),
    ),
    "ModelInferRequest": (
        ("model_name", 1, _Field.TYPE_STRING, False),
        ("model_version", 2, _Field.TYPE_STRING, False),
        ("id", 3, _Field.TYPE_STRING, False),
        ("inputs", 5, ".inference.Tensor", True),
        ("raw_input_contents", 7, _Field.TYPE_BYTES, True),
    ),
    "ModelInferResponse": (
        ("model_name", 1, _Field.TYPE_STRING, False),
        ("model_version", 2, _Field.TYPE_STRING, False),
        ("id", 3, _Field.TYPE_STRING, False),
        ("outputs", 5, ".inference.Tensor", True),
        ("raw_output_contents", 6, _Field.TYPE_BYTES, True),
    ),
}


def _build_pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="lepton_open_inference.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, repeated in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, kind
            else:
                field.type = kind  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _build_pool()
_REQUEST: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.ModelInferRequest"))
_RESPONSE: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{_PACKAGE}.ModelInferResponse"))


def infer(
    channel: grpc.Channel,
    model_name: str,
    model_version: str,
    inputs: Sequence[tuple[common_pb2.TensorSpec, "np.ndarray[Any, Any]"]],
    timeout_seconds: float,
) -> dict[str, "np.ndarray[Any, Any]"]:
    """Run one ModelInfer; return the outputs by name, each (rows, ...).

    Args:
        channel: to the inference workers.
        model_name: the deployment.
        model_version: a number or alias; empty for the deployment's own.
        inputs: each input's spec and values of shape (rows, 1); strings as objects.
        timeout_seconds: the call's deadline.

    Raises:
        LeptonError: the call failed.
    """
    call: Any = channel.unary_unary(
        f"{_SERVICE}ModelInfer",
        response_deserializer=_RESPONSE.FromString,
    )
    response = call(build_request(model_name, model_version, inputs), timeout=timeout_seconds)
    return {
        tensor.name: _decode(tensor.datatype, content, tuple(tensor.shape))
        for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def build_request(
    model_name: str, model_version: str, inputs: Sequence[tuple[common_pb2.TensorSpec, "np.ndarray[Any, Any]"]]
) -> bytes:
    """Return a serialised ModelInferRequest with raw tensors; arguments as for infer."""
    request = _REQUEST(model_name=model_name, model_version=model_version)
    for spec, values in inputs:
        request.inputs.add(name=spec.name, datatype=spec.datatype, shape=values.shape)
        try:
            request.raw_input_contents.append(_encode(spec.datatype, values))
        except UnicodeEncodeError as error:
            raise errors.InvalidArgument(
                f"column {spec.name!r} holds a text with a lone surrogate, which UTF-8 cannot encode", reason="BAD_ROW"
            ) from error
    content: bytes = request.SerializeToString()
    return content


def column_values(column: "pd.Series[Any]", spec: common_pb2.TensorSpec, first_row: int = 0) -> "np.ndarray[Any, Any]":
    """Return a DataFrame column as the values of a model input, shape (rows, 1): missing is NaN or empty text.

    A column of series gives (rows, steps), shorter ones with NaN at their end.

    Args:
        column: of any dtype.
        spec: the input.
        first_row: the number of the column's first row in the user's data, for messages.

    Raises:
        InvalidArgument: the input does not take a value; the message names row and column.
    """
    if spec.kind == common_pb2.COLUMN_KIND_SERIES:
        return _series_values(column, spec, first_row)
    if spec.datatype == "BYTES":
        return to_texts(column, spec, first_row)
    if spec.kind == common_pb2.COLUMN_KIND_TEMPORAL:
        return to_moments(column, spec, first_row)
    if pd.api.types.is_timedelta64_dtype(column.dtype):
        # Training reads durations as seconds.
        column = column.dt.total_seconds()
    return to_numbers(column, spec, first_row)


def _series_values(column: "pd.Series[Any]", spec: common_pb2.TensorSpec, first_row: int) -> "np.ndarray[Any, Any]":
    rows = [to_steps(item, spec.name, first_row + row) for row, item in enumerate(column)]
    values = np.full((len(rows), max([1, *map(len, rows)])), np.nan, dtype=NUMPY_TYPES[spec.datatype])
    with np.errstate(over="ignore"):
        for row, steps in enumerate(rows):
            values[row, : len(steps)] = steps
    return values


def _encode(datatype: str, values: "np.ndarray[Any, Any]") -> bytes:
    if datatype == "BYTES":
        texts = [str(value).encode() for value in values.reshape(-1)]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    whole = np.ascontiguousarray(values, dtype=np.dtype(NUMPY_TYPES[datatype]).newbyteorder("<"))
    return _to_brain_floats(whole) if datatype == "BF16" else whole.tobytes()


def _to_brain_floats(values: "np.ndarray[Any, Any]") -> bytes:
    """Return the upper halves of floats, rounded to the nearest and to the even one of two."""
    bits = values.view("<u4")
    # In 64 bits: the carry of a large number does not wrap.
    rounded = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype("<u2").tobytes()


def _decode(datatype: str, content: bytes, shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    if datatype == "BF16":
        return (np.frombuffer(content, dtype="<u2").astype("<u4") << 16).view("<f4").reshape(shape)
    if datatype != "BYTES":
        return np.frombuffer(content, dtype=np.dtype(NUMPY_TYPES[datatype]).newbyteorder("<")).reshape(shape)
    texts: list[str] = []
    position = 0
    while position < len(content):
        (length,) = struct.unpack_from("<I", content, position)
        texts.append(content[position + 4 : position + 4 + length].decode())
        position += 4 + length
    return np.array(texts, dtype=object).reshape(shape)
