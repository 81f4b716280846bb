"""A server of the protocol with models of a test's own, on either lane, and a client of it."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from servicekit.rpc import open_channel, raw_channel
from servicekit.server import RunningServer
from services.inference.adapters.deployments_client import DeploymentsClient
from services.inference.front import answering, running_front
from services.inference.open_inference import grpc_service_pb2 as pb
from services.inference.open_inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from services.inference.serving.batcher import Batcher
from services.inference.serving.forwarding import Directory, Forwarder
from services.inference.serving.servicer import OpenInferenceServicer
from services.inference.serving.table import ServingTable
from services.inference.settings import WorkerSettings
from tests.support.credentials import environment_of, public_channel

LANES = [pytest.param(True, id="fast lane"), pytest.param(False, id="grpc.aio")]
Metadata = tuple[tuple[str, str], ...]


@dataclass
class Served:
    """A server with models, and a client of it.

    Args:
        table: its models.
        servicer: it.
        batcher: runs its predictions.
        server: with its ports.
        rest_port: of the same protocol over REST.
        channel, stub: to its public port.
        metadata: a token.
    """

    table: ServingTable
    servicer: OpenInferenceServicer
    batcher: Batcher
    server: RunningServer
    rest_port: int
    channel: grpc.aio.Channel
    stub: Any
    metadata: Metadata

    async def infer(
        self, name: str, version: str = "", request: pb.ModelInferRequest | None = None, **call: Any
    ) -> pb.ModelInferResponse:
        """Return a model's answer; by default to ones, (2, 3) FP32 `x`."""
        asked = pb.ModelInferRequest()
        asked.CopyFrom(request or ones())
        asked.model_name, asked.model_version = name, version
        reply: pb.ModelInferResponse = await self.stub.ModelInfer(asked, metadata=self.metadata, **call)
        return reply


def ones() -> pb.ModelInferRequest:
    """Return a request of ones, (2, 3) FP32 `x`."""
    request = pb.ModelInferRequest()
    request.inputs.add(name="x", datatype="FP32", shape=[2, 3]).contents.fp32_contents.extend([1.0] * 6)
    return request


@contextlib.asynccontextmanager
async def serving(
    table: ServingTable,
    credentials: Path,
    metadata: Metadata,
    *,
    fast_lane: bool = True,
    threads: int = 2,
    directory: Directory | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serve a table; with a directory, pass on what is not in it."""
    environment = {
        **environment_of(credentials, "inference"),
        "fast_lane": fast_lane,
        "parallel_runs": threads,
        "rest_port": 0,
        **settings,
    }
    process = WorkerSettings.model_validate(environment)
    async with (
        open_channel("127.0.0.1:1", process) as nowhere,
        Forwarder(directory or Directory("w"), lambda address: raw_channel(address, process)) as forwarder,
    ):
        with answering(process, table, forwarder, DeploymentsClient(nowhere)) as parts:
            async with (
                running_front(process, parts) as front,
                public_channel(front.server.port, credentials) as channel,
            ):
                stub: Any = GRPCInferenceServiceStub(channel)
                yield Served(
                    table, parts.servicer, parts.batcher, front.server, front.rest_port, channel, stub, metadata
                )
