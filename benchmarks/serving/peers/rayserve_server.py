"""Ray Serve: JSON over HTTP, one replica."""

import os
import signal
import threading

import ray
from onnx_model import PORT, OnnxModel
from ray import serve

_PASSED_ON = ("BENCH_MODEL", "BENCH_THREADS")


@serve.deployment(num_replicas=1, max_ongoing_requests=256)
class Served:
    """Takes and gives the protocol's JSON."""

    def __init__(self):
        self._model = OnnxModel()

    async def __call__(self, request):
        """Run the session."""
        return self._model.answer((await request.json())["inputs"])


if __name__ == "__main__":
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=os.environ["BENCH_FOLDER"],
        runtime_env={"env_vars": {name: os.environ[name] for name in _PASSED_ON}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Served.bind(), route_prefix="/predict")
    stopped.wait()
    serve.shutdown()
    ray.shutdown()
