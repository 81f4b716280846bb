"""A process of its own for tests of telemetry: it serves, calls itself within a span, logs, and prints its metrics."""

import asyncio
import logging
import sys
import urllib.request
from pathlib import Path

import structlog

from lepton.v1 import training_pb2, training_pb2_grpc
from servicekit.auth import Identity, act_as
from servicekit.errors import NotFound
from servicekit.rpc import open_channel
from servicekit.settings import ProcessSettings
from servicekit.telemetry import configure_telemetry, tracer
from tests.servicekit.rpc.desk import serving_desks


async def call_oneself(settings: ProcessSettings, credentials: Path) -> None:
    job = training_pb2.GetJobRequest(name="job-1")
    async with (
        serving_desks(settings, credentials) as serving,
        open_channel(serving.private_address, settings) as channel,
    ):
        stub = training_pb2_grpc.TrainingServiceStub(channel)
        with act_as(Identity.for_service("team-a")), tracer("tests").start_as_current_span("fit"):
            await stub.GetJob(job)
            structlog.get_logger().info("called")
            logging.getLogger("some.library").warning("a library %s", "warns")
            serving.desk.error = NotFound("no such job")
            try:
                await stub.GetJob(job)
            except NotFound:
                structlog.get_logger().info("not found")


def main() -> None:
    settings = ProcessSettings()
    with configure_telemetry(settings, "traced"):
        asyncio.run(call_oneself(settings, Path(sys.argv[1])))
        with urllib.request.urlopen(f"http://{settings.host}:{settings.metrics_port}/metrics") as answer:
            sys.stderr.write(answer.read().decode())


if __name__ == "__main__":
    main()
