"""`python -m services.registry.verifier MEMORY_BYTES CPU_SECONDS`: see the package."""

import contextlib
import ctypes
import hashlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any

from servicekit.onnx_text import last_line, load_problem
from services.registry.verifier.refusal import Refused
from services.registry.verifier.weights import check_files

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_BATCHES = (1, 3)
# Every external tensor names its file under this key.
_EXTERNAL_MARK = b"location"

# An ONNX Runtime type by its Open Inference name; NumPy calls most by the same in lower case.
_DATATYPES = {
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
_NUMPY_NAMES = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}


def main() -> None:
    """Answer {"sha256", "inputs", "outputs"}, {"digests"} or {"sha256", "reason", "message"}, one line of JSON."""
    limit(int(sys.argv[1]), int(sys.argv[2]))
    # What libraries print belongs to nobody: stdout is the answer's alone.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    answer: dict[str, object] = {}
    try:
        asked = json.loads(sys.stdin.buffer.readline())
        if "files" in asked:
            answer["digests"] = check_files(asked["files"], sys.stdin.buffer)
        else:
            model = sys.stdin.buffer.read()
            answer["sha256"] = hashlib.sha256(model).hexdigest()
            answer |= _try(model, asked["examples"])
    except MemoryError:
        answer |= _as_answer(_out_of_memory("the model"))
    except Refused as refused:
        answer |= _as_answer(refused)
    with out:
        json.dump(answer, out)


def limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Give up the network, where the host allows it, and everything beyond a share of memory and time."""
    with contextlib.suppress(OSError):
        libc = ctypes.CDLL(None, use_errno=True)
        # A namespace without interfaces has no network.
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        # A registry that is killed takes its child along. Only now: new credentials could have reset it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    # The second, hard limit kills; the first one's signal tells why.
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _try(model: bytes, examples: dict[str, str]) -> dict[str, object]:
    _refuse_external_files(model)
    session = _load(model)
    inputs, outputs = _tensors(session.get_inputs()), _tensors(session.get_outputs())
    for rows in _BATCHES:
        _predict(session, inputs, rows, examples)
    return {"inputs": inputs, "outputs": outputs}


def _refuse_external_files(model: bytes) -> None:
    """Refuse a model that reads files of whatever machine loads it."""
    if _EXTERNAL_MARK not in model:
        return
    # Most models never come here: reading a graph twice costs time and memory.
    import onnx
    from google.protobuf.message import DecodeError

    try:
        parsed = onnx.ModelProto.FromString(model)
    except DecodeError as error:
        raise Refused("NOT_ONNX", "the file is not an ONNX model") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _all_tensors(parsed)):
        raise Refused("LOAD_FAILED", "the model keeps weights in other files: export it as one file")


def _all_tensors(message: Any) -> Iterator[Any]:
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in value if field.is_repeated else (value,):
            if field.message_type.name == "TensorProto":
                yield item
            else:
                yield from _all_tensors(item)


def _load(model: bytes) -> Any:
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        raise
    except Exception as error:
        raise _load_problem(str(error)) from error


def _load_problem(text: str) -> Refused:
    return _out_of_memory("loading the model") if _is_about_memory(text) else Refused(*load_problem(text))


def _tensors(items: Any) -> list[dict[str, object]]:
    unknown = [item.type for item in items if item.type not in _DATATYPES]
    if unknown:
        raise Refused("UNSUPPORTED_TYPE", f"the graph takes or gives a {unknown[0]}, which the wire cannot carry")
    return [
        {
            "name": item.name,
            "datatype": _DATATYPES[item.type],
            "shape": [size if isinstance(size, int) and size >= 0 else -1 for size in item.shape],
        }
        for item in items
    ]


def _predict(session: Any, inputs: list[dict[str, object]], rows: int, examples: dict[str, str]) -> None:
    try:
        session.run(None, {str(item["name"]): _sample(item, rows, examples) for item in inputs})
    except MemoryError:
        raise
    except Exception as error:
        what = f"a prediction of {rows} row{'s' * (rows > 1)}"
        if _is_about_memory(str(error)):
            raise _out_of_memory(what) from error
        raise Refused("SAMPLE_PREDICTION_FAILED", f"{what} failed: {last_line(str(error))}") from error


def _sample(item: dict[str, Any], rows: int, examples: dict[str, str]) -> Any:
    import numpy as np

    shape = [(rows if place == 0 else 1) if size == -1 else size for place, size in enumerate(item["shape"])]
    if item["datatype"] == "BYTES":
        return np.full(shape, examples.get(item["name"], "a"), dtype=object)
    return np.ones(shape, dtype=_NUMPY_NAMES.get(item["datatype"], item["datatype"].lower()))


def _is_about_memory(text: str) -> bool:
    return "bad_alloc" in text or "Failed to allocate memory" in text or "bad allocation" in text


def _out_of_memory(what: str) -> Refused:
    return Refused("VERIFIER_OUT_OF_MEMORY", f"{what} took more memory than is allowed")


def _as_answer(refused: Refused) -> dict[str, object]:
    return {"reason": refused.reason, "message": refused.message}


if __name__ == "__main__":
    main()
