"""A gRPC client in a process of its own, pinned: arrivals by the clock, or a closed loop where h2load lacks.

`python -m benchmarks.serving.client` reads what to do from stdin as JSON, and prints what it found.
"""

import asyncio
import base64
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import grpc

from benchmarks.harness import percentile
from benchmarks.serving.endpoint import Endpoint
from benchmarks.serving.environments import ROOT
from benchmarks.serving.question import METHOD

_TIMEOUT_SECONDS = 10.0
_SLACK_SECONDS = 60.0
_LOOKING_SECONDS = 0.002


@dataclass(frozen=True)
class Found:
    """What a client found.

    Args:
        asked, failed: requests.
        rate: answers a second.
        p50, p99: latencies, ms; of arrivals by the clock, from the moment that a request was due.
        late: the 99th percentile of how late requests were sent, ms: the client's own fault.
        problem: of the first failure.
    """

    asked: int
    failed: int
    rate: float
    p50: float
    p99: float
    late: float
    problem: str


def run_client(endpoint: Endpoint, core: int, mode: str, load: float, seconds: float) -> Found:
    """Run a client process to its end.

    Args:
        endpoint: who is asked what.
        core: what it is pinned to.
        mode: "closed": so many requests are under way; "random" or "even": so many arrive a second, as a Poisson
            process or evenly spaced.
        load: that number.
        seconds: for how long.
    """
    task = {
        "address": endpoint.address,
        "ca": str(endpoint.ca or ""),
        "metadata": endpoint.metadata,
        "body": base64.b64encode(endpoint.body).decode(),
        "core": core,
        "mode": mode,
        "load": load,
        "seconds": seconds,
    }
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.client"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=seconds + _SLACK_SECONDS,
    )
    return Found(**json.loads(ran.stdout))


class _Client:
    """Asks and remembers how long it took."""

    def __init__(self, channel: grpc.aio.Channel, task: dict[str, Any]) -> None:
        self._infer: Any = channel.unary_unary(METHOD)
        self._body = base64.b64decode(task["body"])
        self._metadata = tuple((name, value) for name, value in task["metadata"])
        self.milliseconds: list[float] = []
        self.late: list[float] = []
        self.problems: list[str] = []

    async def ask(self, due: float) -> None:
        """Ask once; the time counts from when it was due."""
        self.late.append((time.perf_counter() - due) * 1000)
        try:
            await self._infer(self._body, metadata=self._metadata, timeout=_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            self.problems.append(f"{error.code().name}: {error.details()}")
        else:
            self.milliseconds.append((time.perf_counter() - due) * 1000)

    async def closed(self, in_flight: int, seconds: float) -> None:
        """Keep so many requests under way."""
        end = time.perf_counter() + seconds

        async def loop() -> None:
            while (now := time.perf_counter()) < end:
                await self.ask(now)

        await asyncio.gather(*(loop() for _ in range(in_flight)))

    async def open(self, rate: float, seconds: float, *, at_random: bool) -> None:
        """Ask at moments of a Poisson process, or evenly spaced ones, whatever the answers do."""
        draw = random.Random(0)
        due = time.perf_counter()
        end = due + seconds
        async with asyncio.TaskGroup() as group:
            while (due := due + (draw.expovariate(rate) if at_random else 1.0 / rate)) < end:
                while (pause := due - time.perf_counter()) > 0:  # noqa: ASYNC110 - the clock tells nobody
                    # A timer of asyncio's may be a millisecond late: the last two are spent looking.
                    await asyncio.sleep(max(pause - _LOOKING_SECONDS, 0))
                group.create_task(self.ask(due))


async def _work(task: dict[str, Any]) -> Found:
    ca = task["ca"]
    credentials = None
    if ca:
        with open(ca, "rb") as file:  # noqa: ASYNC230 - before the clock starts
            credentials = grpc.ssl_channel_credentials(file.read())
    address = task["address"]
    channel = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    async with channel:
        await _Client(channel, task).ask(time.perf_counter())
        client = _Client(channel, task)
        begun = time.perf_counter()
        if task["mode"] == "closed":
            await client.closed(int(task["load"]), task["seconds"])
        else:
            await client.open(task["load"], task["seconds"], at_random=task["mode"] == "random")
        return _found(client, time.perf_counter() - begun)


def _found(client: _Client, seconds: float) -> Found:
    times, late = sorted(client.milliseconds), sorted(client.late)
    return Found(
        asked=len(client.late),
        failed=len(client.problems),
        rate=len(times) / seconds,
        p50=percentile(times, 50),
        p99=percentile(times, 99),
        late=percentile(late, 99),
        problem=client.problems[0] if client.problems else "",
    )


def main() -> None:
    """Do what stdin says."""
    task = json.load(sys.stdin)
    os.sched_setaffinity(0, {task["core"]})
    print(json.dumps(asdict(asyncio.run(_work(task)))))


if __name__ == "__main__":
    main()
