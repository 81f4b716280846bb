"""Single-row ModelInfer on the credit model, one worker process on one core: `python -m benchmarks.serving`.

The worker is pinned to core 0, the load generator to core 1; closed loop, so many requests in flight; TLS, token check,
rules, deadlines and metrics on, as always.
"""

import asyncio
import json
import time
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks.harness import BASE_PORT, CREDIT, lepton, median, running_platform, show
from lepton import Deploy, open_inference
from lepton.datasets import Dataset
from lepton.embedded.home import Home
from lepton.models import BoostedTrees

_IN_FLIGHT = (1, 8, 32)
_SECONDS = 4.0
_RUNS = 5
_TARGET = 1500.0


def main() -> None:
    """Serve the credit model and ask it; medians of five."""
    with running_platform() as connection:
        data = Dataset.import_file(CREDIT, name="serving", label="creditability", connection=connection)
        model = BoostedTrees(name="serving", connection=connection).fit(data)
        Deploy(model).save().wait()
        worker = json.loads(lepton("status", "--json"))["services"]["inference-worker-1"]["pid"]
        psutil.Process(worker).cpu_affinity([0])
        psutil.Process().cpu_affinity([1])
        request = _request(model, data)
        home = Home.find()
        rows = []
        for in_flight in _IN_FLIGHT:
            runs = [asyncio.run(_load(home, request, in_flight)) for _ in range(_RUNS)]
            rate = median([run[0] for run in runs])
            latency = median([run[1] for run in runs])
            rows.append((f"requests a second, {in_flight} in flight", rate, f"req/s (p99 {latency:.1f} ms)", _TARGET))
    show("single-row ModelInfer, credit model (20 raw columns), TLS and token on, one core", rows)


def _request(model: BoostedTrees, data: Dataset) -> bytes:
    row = data.head(1)
    inputs = [
        (spec, open_inference.column_values(row[spec.name], spec)) for spec in model.trained_version().signature.inputs
    ]
    return open_inference.build_request("serving", "", inputs)


async def _load(home: Home, request: bytes, in_flight: int) -> tuple[float, float]:
    """Return requests a second and the 99th percentile of latency, ms."""
    credentials = grpc.ssl_channel_credentials(home.ca.read_bytes())
    metadata = (("authorization", f"Bearer {home.token.read_text()}"),)
    latencies: list[float] = []
    async with grpc.aio.secure_channel(f"127.0.0.1:{BASE_PORT + 1}", credentials) as channel:
        infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert b"good" in await infer(request, metadata=metadata), "the first row of the data is a good one"
        deadline = time.perf_counter() + _SECONDS

        async def ask() -> None:
            while (started := time.perf_counter()) < deadline:
                await infer(request, metadata=metadata, timeout=5)
                latencies.append(time.perf_counter() - started)

        begun = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(in_flight)))
        seconds = time.perf_counter() - begun
    return len(latencies) / seconds, float(np.percentile(latencies, 99)) * 1000


if __name__ == "__main__":
    main()
