"""ONNX Runtime: how a graph is opened, and what its tensors are called."""

from pathlib import Path
from typing import Any

import onnxruntime as ort

from servicekit.errors import FailedPrecondition

# CUDA where there is a GPU, else the processor. Asking for what lacks raises nothing: the session tells what it took.
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_NVIDIA_DEVICE = "/dev/nvidiactl"
_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}

ORT_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def open_session(content: bytes, threads: int, optimization: str = "all", provider: str = "") -> Any:
    """Return a session of a graph.

    Args:
        content: the graph.
        threads: that one run may use.
        optimization: level of graph optimisation: all or extended.
        provider: the execution provider to prefer; empty for the usual ones.

    Raises:
        FailedPrecondition: ONNX Runtime cannot load it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = _LEVELS[optimization]
    available = [name for name in PROVIDERS if name in ort.get_available_providers()]
    if not Path(_NVIDIA_DEVICE).exists():
        # Without a GPU, asking for CUDA only prints errors for every model.
        available = [name for name in available if name == PROVIDERS[-1]]
    preferred = [provider] if provider and provider not in available else []
    try:
        return ort.InferenceSession(content, options, providers=preferred + available)
    except Exception as error:
        raise FailedPrecondition(f"the model cannot be loaded: {first_line(error)}", reason="LOAD_FAILED") from error


def first_line(error: Exception) -> str:
    """Return how ONNX Runtime says what went wrong, in short."""
    return str(error).strip().split("\n", 1)[0][:300]
