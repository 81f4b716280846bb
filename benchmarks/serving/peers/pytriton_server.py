"""PyTriton: Triton's server in front of a Python function, with its dynamic batcher."""

import numpy as np
from onnx_model import METRICS_PORT, NAME, NUMPY_TYPES, OTHER_PORT, PORT, OnnxModel
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def _tensors(specs):
    return [
        Tensor(
            name=name,
            dtype=bytes if datatype == "BYTES" else NUMPY_TYPES[datatype],
            shape=tuple(size if isinstance(size, int) else -1 for size in shape[1:]),
        )
        for name, (datatype, shape) in specs.items()
    ]


def main():
    """Serve until a signal."""
    model = OnnxModel()

    @batch
    def infer(**inputs):
        found = model.run(inputs)
        return {
            name: np.char.encode(values.astype(str)) if values.dtype == object else values
            for name, values in found.items()
        }

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=OTHER_PORT,
        grpc_address="127.0.0.1",
        grpc_port=PORT,
        metrics_port=METRICS_PORT,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=NAME,
            infer_func=infer,
            inputs=_tensors(model.inputs),
            outputs=_tensors(model.outputs),
            config=ModelConfig(max_batch_size=32),
        )
        triton.serve()


if __name__ == "__main__":
    main()
