"""ONNX Runtime alone, a process of its own: `python -m benchmarks.serving.bare MODEL QUESTION SECONDS THREADS`.

Runs the session in a loop at each batch size and prints rows a second by batch size, as JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

_BATCHES = (1, 2, 4, 8, 16, 32)
_TYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BYTES": object}


def main() -> None:
    """Measure and print."""
    model, question, seconds, threads = sys.argv[1:]
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    row = {
        item["name"]: np.array(item["data"], dtype=_TYPES[item["datatype"]])
        for item in json.loads(Path(question).read_text())
    }
    print(json.dumps({batch: _rate(session, row, batch, float(seconds)) for batch in _BATCHES}))


def _rate(session: Any, row: dict[str, Any], batch: int, seconds: float) -> float:
    """Return rows a second at a batch size."""
    inputs = {name: np.repeat(values, batch, axis=0) for name, values in row.items()}
    session.run(None, inputs)
    begun = now = time.perf_counter()
    runs = 0
    while now - begun < seconds:
        session.run(None, inputs)
        runs += 1
        now = time.perf_counter()
    return runs * batch / (now - begun)


if __name__ == "__main__":
    main()
