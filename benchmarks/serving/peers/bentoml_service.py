"""BentoML's service: JSON over HTTP."""

import bentoml
from onnx_model import OnnxModel


@bentoml.service(workers=1)
class Served:
    """Takes and gives the protocol's JSON."""

    def __init__(self):
        self._model = OnnxModel()

    @bentoml.api(route="/predict")
    def predict(self, inputs: list) -> dict:
        """Run the session."""
        return self._model.answer(inputs)
