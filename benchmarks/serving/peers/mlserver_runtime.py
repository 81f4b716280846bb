"""MLServer's custom runtime."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse
from onnx_model import OnnxModel


class Served(MLModel):
    """Answers the Open Inference Protocol."""

    async def load(self):
        """Open the session."""
        self._model = OnnxModel()
        return True

    async def predict(self, payload):
        """Run the session on a request's tensors."""
        found = self._model.run({item.name: self._decode(item) for item in payload.inputs})
        outputs = [_encode(name, values) for name, values in found.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)

    def _decode(self, item):
        # StringCodec returns a list, and the model wants a column.
        if item.datatype != "BYTES":
            return NumpyCodec.decode_input(item)
        return [[text] for text in StringCodec.decode_input(item)]


def _encode(name, values):
    if values.dtype != object:
        return NumpyCodec.encode_output(name, values)
    return StringCodec.encode_output(name, values.reshape(-1).tolist())
