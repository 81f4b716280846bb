"""`python -m services.registry.verifier MEMORY_BYTES CPU_SECONDS`: see the package."""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_BATCHES = (1, 3)


def main() -> None:
    """Answer {"inputs": [...], "outputs": [...]} or {"reason": ..., "message": ...}."""
    memory_bytes, cpu_seconds = int(sys.argv[1]), int(sys.argv[2])
    _limit(memory_bytes, cpu_seconds)
    header = json.loads(sys.stdin.buffer.readline())
    model = sys.stdin.buffer.read()
    # What libraries print belongs to nobody: stdout is the answer's alone.
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with os.fdopen(answer, "w") as out:
        json.dump(_verdict(model, header["categories"]), out)


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    with contextlib.suppress(OSError):
        libc = ctypes.CDLL(None, use_errno=True)
        # A registry that is killed takes its child along; a namespace without interfaces has no network.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _verdict(model: bytes, categories: dict[str, str]) -> dict[str, object]:
    import onnxruntime as ort

    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except MemoryError:
        return {"reason": "VERIFIER_OUT_OF_MEMORY", "message": "loading the model took more memory than is allowed"}
    except Exception as error:
        return _load_problem(str(error))
    try:
        inputs = [_tensor(item) for item in session.get_inputs()]
        outputs = [_tensor(item) for item in session.get_outputs()]
    except KeyError as error:
        return {"reason": "UNSUPPORTED_TYPE", "message": f"the graph has a tensor of type {error.args[0]}"}
    for rows in _BATCHES:
        try:
            session.run(None, {item["name"]: _sample(item, rows, categories) for item in inputs})
        except MemoryError:
            return {"reason": "VERIFIER_OUT_OF_MEMORY", "message": "a prediction took more memory than is allowed"}
        except Exception as error:
            return {
                "reason": "SAMPLE_PREDICTION_FAILED",
                "message": f"a prediction of {rows} row{'s' * (rows > 1)} failed: {_first_line(str(error))}",
            }
    return {"inputs": inputs, "outputs": outputs}


def _load_problem(text: str) -> dict[str, object]:
    if "bad_alloc" in text or "allocate" in text.lower():
        return {"reason": "VERIFIER_OUT_OF_MEMORY", "message": "loading the model took more memory than is allowed"}
    is_onnx = "INVALID_PROTOBUF" not in text and "ModelProto" not in text
    message = f"ONNX Runtime cannot load the model: {_first_line(text)}"
    return {"reason": "LOAD_FAILED" if is_onnx else "NOT_ONNX", "message": message}


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
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def _tensor(item: object) -> dict[str, object]:
    shape = [size if isinstance(size, int) and size >= 0 else -1 for size in item.shape]  # type: ignore[attr-defined]
    return {"name": item.name, "datatype": _DATATYPES[item.type], "shape": shape}  # type: ignore[attr-defined]


def _sample(item: dict[str, object], rows: int, categories: dict[str, str]) -> object:
    import numpy as np

    sizes = list(item["shape"])  # type: ignore[call-overload]
    shape = [(rows if place == 0 else 1) if size == -1 else size for place, size in enumerate(sizes)]
    if item["datatype"] == "BYTES":
        return np.full(shape, categories.get(str(item["name"]), "a"), dtype=object)
    kinds = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
    return np.ones(shape, dtype=kinds.get(str(item["datatype"]), str(item["datatype"]).lower()))


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300]


if __name__ == "__main__":
    main()
