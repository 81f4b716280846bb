"""MLServer in one process: its workers would share the core."""

import json
import os
import sys
import tempfile
from pathlib import Path

from onnx_model import METRICS_PORT, NAME, OTHER_PORT, PORT

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="lb-", dir=os.environ["BENCH_FOLDER"]))
    settings = {
        "host": "127.0.0.1",
        "http_port": OTHER_PORT,
        "grpc_port": PORT,
        "metrics_port": METRICS_PORT,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": NAME, "implementation": "mlserver_runtime.Served"}
    (folder / "model-settings.json").write_text(json.dumps(model))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    command = str(Path(sys.executable).parent / "mlserver")
    os.execv(command, [command, "start", str(folder)])
