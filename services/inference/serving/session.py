"""ONNX Runtime: how a graph is opened."""

from pathlib import Path
from typing import Any

import onnxruntime as ort

from servicekit.brain_floats import with_brain_floats
from servicekit.errors import FailedPrecondition
from servicekit.gpus import Gpu, freest, read_gpus
from servicekit.onnx_text import load_problem
from servicekit.onnx_weights import Weights, give_weights
from services.inference.serving.bound import BoundSession

# CUDA where there is a GPU, else the processor. Asking for what lacks raises nothing: the session tells what it took.
_CUDA, _CPU = PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_NVIDIA_DEVICE = "/dev/nvidiactl"
_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}


def open_session(
    content: bytes,
    threads: int,
    optimization: str = "all",
    provider: str = "",
    *,
    captures: bool = False,
    gpu_share: float = 0.0,
    weights: Weights | None = None,
) -> Any:
    """Return a session of a graph; on a GPU one whose tensors are bound to the device.

    Args:
        content: the graph.
        threads: that one run may use.
        optimization: level of graph optimisation: all or extended.
        provider: the execution provider to prefer; empty for the usual ones.
        captures: whether runs that repeat become CUDA graphs.
        gpu_share: of a GPU's memory that it may take; 0 for what it needs.
        weights: the files that the graph reads weights from, by name.

    Raises:
        FailedPrecondition: ONNX Runtime cannot load it.
    """
    options = _session_options(threads, optimization)
    give_weights(options, content, weights or {})
    available = [name for name in PROVIDERS if name in ort.get_available_providers()]
    if not Path(_NVIDIA_DEVICE).exists():
        # Without a GPU, asking for CUDA only prints errors for every model.
        available = [name for name in available if name == _CPU]
    wanted = [provider, *available] if provider and provider not in available else available
    gpus = read_gpus() if _CUDA in available else []
    device = freest(gpus)
    cuda = cuda_options(gpus, device, captures=captures, gpu_share=gpu_share)
    try:
        session = ort.InferenceSession(
            content, options, providers=wanted, provider_options=[cuda if name == _CUDA else {} for name in wanted]
        )
    except Exception as error:
        raise FailedPrecondition(load_problem(str(error))[1], reason="LOAD_FAILED") from error
    try:
        whole = with_brain_floats(session)
    except ValueError as error:
        raise FailedPrecondition(f"the model cannot be served: {error}", reason="LOAD_FAILED") from error
    if whole is not session or session.get_providers()[0] == _CPU:
        return whole
    return BoundSession(session, "cuda", device, captures=captures)


def _session_options(threads: int, optimization: str) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Not even errors: they are raised as well, and their texts may hold values of a request.
    options.log_severity_level = 4
    options.graph_optimization_level = _LEVELS[optimization]
    return options


def cuda_options(gpus: list[Gpu], device: int, *, captures: bool, gpu_share: float) -> dict[str, str]:
    """Return the CUDA provider's options: so several sessions share a GPU, each within its part of the memory."""
    found = {"device_id": str(device)}
    if captures:
        found["enable_cuda_graph"] = "1"
    if gpus and 0 < gpu_share < 1:
        found["gpu_mem_limit"] = str(int(gpu_share * gpus[device].memory_bytes))
    return found
