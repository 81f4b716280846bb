"""Open Inference datatypes of ONNX Runtime's tensor types."""

from servicekit.brain_floats import BRAIN_FLOAT_TENSOR

_PLAIN = {
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
ORT_DATATYPES = {**_PLAIN, BRAIN_FLOAT_TENSOR: "BF16"}
# A request may leave out an optional tensor; as an output it is nothing that a reply can carry. No optional bfloat16:
# the interface that takes bfloat16 knows tensors alone.
INPUT_DATATYPES = {**ORT_DATATYPES, **{f"optional({kind})": name for kind, name in _PLAIN.items()}}
