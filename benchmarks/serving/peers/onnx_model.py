"""The same ONNX file with the same threads, for every peer: what they are told comes in the environment.

This and its neighbours run in environments of their own, without Lepton.
"""

import os

import numpy as np
import onnxruntime as ort

NAME = os.environ.get("BENCH_NAME", "")
PORT = int(os.environ.get("BENCH_PORT", "0"))
# Where a peer wants a second port, for HTTP beside gRPC, say.
OTHER_PORT = PORT + 1
METRICS_PORT = PORT + 2

_DATATYPES = {"tensor(float)": "FP32", "tensor(double)": "FP64", "tensor(int64)": "INT64", "tensor(string)": "BYTES"}
NUMPY_TYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BYTES": object}


class OnnxModel:
    """An ONNX Runtime session, its tensors' names and types."""

    def __init__(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        self.inputs = {item.name: (_DATATYPES[item.type], item.shape) for item in self._session.get_inputs()}
        self.outputs = {item.name: (_DATATYPES[item.type], item.shape) for item in self._session.get_outputs()}

    def run(self, inputs):
        """Return outputs by name for inputs by name; texts may come as bytes."""
        ready = {name: _texts(values) if self.inputs[name][0] == "BYTES" else values for name, values in inputs.items()}
        return dict(zip(self.outputs, self._session.run(None, ready), strict=True))

    def answer(self, tensors):
        """Return the JSON of a reply for the JSON of a request's inputs."""
        inputs = {
            item["name"]: np.array(item["data"], dtype=NUMPY_TYPES[item["datatype"]]).reshape(item["shape"])
            for item in tensors
        }
        outputs = self.run(inputs)
        return {
            "outputs": [
                {"name": name, "datatype": self.outputs[name][0], "shape": list(values.shape), "data": values.tolist()}
                for name, values in outputs.items()
            ]
        }


def _texts(values):
    decoded = [item.decode() if isinstance(item, bytes) else str(item) for item in np.asarray(values).reshape(-1)]
    return np.array(decoded, dtype=object).reshape(np.shape(values))
