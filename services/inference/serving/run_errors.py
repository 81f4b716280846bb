"""What a run that failed says of the request, of the model and of the machine: ONNX Runtime's errors to typed ones."""

import re

from servicekit.errors import Internal, InvalidArgument, LeptonError, ResourceExhausted, Unimplemented
from servicekit.onnx_text import last_line

INPUT_REJECTED = "INPUT_REJECTED"
# ONNX Runtime's codes say little: for a shape that does not fit each operator has another.
_INPUTS = re.compile(r"\[ONNXRuntimeError\] : \d+ : (FAIL|INVALID_ARGUMENT|RUNTIME_EXCEPTION|INVALID_GRAPH) : ")
_MEMORY = re.compile(r"failed to allocate|bad_alloc|out of memory|ALLOC_FAILED", re.IGNORECASE)
_DEVICE = re.compile(r"\b(CUDA|CUDNN|CUBLAS|CUFFT|TensorRT|EP_FAIL|ENGINE_ERROR|DEVICE_RESET)\b", re.IGNORECASE)
_ENDED = "Exiting due to terminate flag"
_NODE = re.compile(r"Non-zero status code returned while running (\S+) node\. Name:'[^']*' Status Message: ")
_TEMPLATE = re.compile(r"\s\[with [^\]]*\]")
_ADVICE = "Please fix either the inputs/outputs or the model."


def run_error(deployment: str, error: Exception) -> LeptonError:
    """Return the typed error of a run.

    A model that was loaded fails because of what it was given, unless the error says otherwise.
    The text may hold values of the request, such as an index: it goes to the caller alone, and is not logged.

    Args:
        deployment: whose model it was.
        error: what ONNX Runtime, or its Python interface, raised.

    Returns:
        InvalidArgument INPUT_REJECTED, ResourceExhausted OUT_OF_MEMORY, Unimplemented OPERATOR_NOT_IMPLEMENTED, or
        Internal RUN_ENDED or MODEL_FAULT.
    """
    text = str(error)
    if _ENDED in text:
        return Internal(f"model {deployment!r}: the run was ended", reason="RUN_ENDED")
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        return ResourceExhausted(
            f"model {deployment!r}: this request needs more memory than there is; send smaller tensors",
            reason="OUT_OF_MEMORY",
        )
    found = _fault(deployment, text)
    found.holds_values = True
    return found


def _fault(deployment: str, text: str) -> LeptonError:
    said = _said(text)
    if " : NOT_IMPLEMENTED : " in text:
        return Unimplemented(f"model {deployment!r}: {said}", reason="OPERATOR_NOT_IMPLEMENTED")
    if _INPUTS.match(text) and not _DEVICE.search(text):
        return InvalidArgument(f"model {deployment!r} does not take this input: {said}", reason=INPUT_REJECTED)
    return Internal(f"model {deployment!r} failed on this input", reason="MODEL_FAULT")


def _said(text: str) -> str:
    """Return the operator, of nested ones the innermost, and what ONNX Runtime says of it."""
    nodes = _NODE.findall(text)
    line = last_line(_TEMPLATE.sub("", _NODE.sub("", text)).replace(_ADVICE, ""))
    # What follows the condition of an assertion explains it.
    line = line.rpartition(" was false. ")[2] or line
    return f"operator {nodes[-1]}: {line}" if nodes else line
