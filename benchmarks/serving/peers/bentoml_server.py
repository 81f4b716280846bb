"""BentoML, one worker."""

import os
import sys
from pathlib import Path

from onnx_model import PORT

if __name__ == "__main__":
    os.environ["BENTOML_DO_NOT_TRACK"] = "true"
    os.environ["BENTOML_HOME"] = os.environ["BENCH_FOLDER"]
    folder = str(Path(__file__).parent)
    serve = ["serve", "bentoml_service:Served", "--host", "127.0.0.1", "--port", str(PORT), "--working-dir", folder]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *serve])
