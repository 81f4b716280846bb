"""bfloat16 tensors in ONNX Runtime: its Python interface takes and gives them as OrtValues alone.

To its callers a session here is an `onnxruntime.InferenceSession` whose bfloat16 tensors are arrays of
`ml_dtypes.bfloat16`, as NumPy has no such type of its own.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort

Array = np.ndarray[Any, Any]

BRAIN_FLOAT = np.dtype(ml_dtypes.bfloat16)
BRAIN_FLOAT_TENSOR = "tensor(bfloat16)"
_TEXT_TENSOR = "tensor(string)"
# TensorProto.BFLOAT16.
_ONNX_BFLOAT16 = 16


def with_brain_floats(session: Any) -> Any:
    """Return a session that takes and gives bfloat16 arrays; the same one where its graph has none.

    Raises:
        ValueError: the graph has texts as well, of which no OrtValue can be made.
    """
    kinds = {item.type for item in (*session.get_inputs(), *session.get_outputs())}
    if BRAIN_FLOAT_TENSOR not in kinds:
        return session
    if _TEXT_TENSOR in kinds:
        raise ValueError("a graph with both bfloat16 tensors and texts cannot be run from Python")
    return BrainFloatSession(session)


class BrainFloatSession:
    """A session on the processor whose bfloat16 tensors are arrays.

    Args:
        session: ONNX Runtime's.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [item.name for item in session.get_outputs()]

    def get_inputs(self) -> Any:
        """Return what the graph takes."""
        return self._session.get_inputs()

    def get_outputs(self) -> Any:
        """Return what the graph gives."""
        return self._session.get_outputs()

    def get_providers(self) -> list[str]:
        """Return the execution providers that the session took."""
        found: list[str] = self._session.get_providers()
        return found

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Array], options: Any = None) -> list[Array]:
        """Return some outputs, all for None; as InferenceSession does."""
        # Of an array without axes NumPy's ascontiguousarray makes one with an axis.
        whole = {name: array if array.flags.c_contiguous else array.copy() for name, array in feeds.items()}
        values = {name: _value(array) for name, array in whole.items()}
        found = self._session.run_with_ort_values(list(outputs or self._outputs), values, options)
        return [_array(value) for value in found]


def _value(array: Array) -> Any:
    if array.dtype == BRAIN_FLOAT:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _array(value: Any) -> Array:
    if value.data_type() != BRAIN_FLOAT_TENSOR:
        found: Array = value.numpy()
        return found
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * BRAIN_FLOAT.itemsize
    # A copy: the memory is the OrtValue's.
    content = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.ndarray(shape, BRAIN_FLOAT, content)
