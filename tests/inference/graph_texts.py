"""Models written in ONNX's text form, for tests of serving."""

import onnx
import onnx.parser

from lepton.v1 import registry_pb2
from services.inference.serving.loading import load_model
from services.inference.serving.model import LoadedModel

_HEADER = '<ir_version: 9, opset_import: ["" : {opset}, "ai.onnx.ml" : 3, "com.microsoft" : 1]>'


def graph_of(text: str, opset: int = 17) -> bytes:
    """Return a model of ONNX's text form, such as `g (float[N,3] x) => (float[N,3] y) { y = Abs(x) }`."""
    content: bytes = onnx.parser.parse_model(f"{_HEADER.format(opset=opset)}\n{text}").SerializeToString()
    return content


def load_text(text: str, deployment: str = "g", opset: int = 17) -> LoadedModel:
    """Return a served model of ONNX's text form."""
    return load_model(deployment, registry_pb2.Version(number=1, digest=deployment), graph_of(text, opset))
