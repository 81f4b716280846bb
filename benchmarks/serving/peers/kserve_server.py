"""KServe's SDK: a Model subclass, its gRPC server."""

from kserve import InferOutput, InferResponse, Model, ModelServer
from onnx_model import NAME, OTHER_PORT, PORT, OnnxModel


class Served(Model):
    """Answers the Open Inference Protocol."""

    def __init__(self):
        super().__init__(NAME)
        self._model = OnnxModel()
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        """Run the session on a request's tensors."""
        found = self._model.run({item.name: item.as_numpy() for item in payload.inputs})
        outputs = []
        for name, values in found.items():
            output = InferOutput(name=name, shape=list(values.shape), datatype=self._model.outputs[name][0])
            output.set_data_from_numpy(values, binary_data=True)
            outputs.append(output)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=outputs)


if __name__ == "__main__":
    ModelServer(http_port=OTHER_PORT, grpc_port=PORT, workers=1, access_log_format=None).start([Served()])
