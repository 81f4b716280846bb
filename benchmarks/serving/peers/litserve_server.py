"""LitServe: JSON over HTTP, one worker."""

import litserve
from onnx_model import PORT, OnnxModel


class Served(litserve.LitAPI):
    """Takes and gives the protocol's JSON."""

    def setup(self, device):
        """Open the session."""
        self._model = OnnxModel()

    def decode_request(self, request):
        """Return the tensors."""
        return request["inputs"]

    def predict(self, x):
        """Run the session."""
        return self._model.answer(x)

    def encode_response(self, output):
        """Return it as it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Served(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
