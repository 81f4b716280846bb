"""What a worker answers with, and its servers: the fast lane, or grpc.aio behind the same interface; and REST."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from servicekit.rpc import Guard
from servicekit.server import RunningServer, Servicer, running_server
from servicekit.worker import own_cores
from services.inference.adapters.deployments_client import DeploymentsClient
from services.inference.fastlane.predictions import FastPredictions
from services.inference.fastlane.server import FastServer
from services.inference.open_inference.grpc_service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from services.inference.rest.app import RestApp
from services.inference.rest.server import running_rest
from services.inference.serving.admission import Admission
from services.inference.serving.batcher import Batcher, QueueLimits
from services.inference.serving.forwarding import MODEL_INFER, Forwarder
from services.inference.serving.predictions import Predictions
from services.inference.serving.servicer import OpenInferenceServicer
from services.inference.serving.shadow import Shadow
from services.inference.serving.table import ServingTable
from services.inference.settings import WorkerSettings


@dataclass(frozen=True)
class Answering:
    """The parts of a worker that answer predictions.

    Args:
        table: who is served.
        batcher: runs predictions.
        forwarder: passes on what stands elsewhere.
        shadow: compares answers with other versions'.
        predictions: answers on the event loop.
        servicer: the protocol's RPCs.
    """

    table: ServingTable
    batcher: Batcher
    forwarder: Forwarder
    shadow: Shadow
    predictions: Predictions
    servicer: OpenInferenceServicer


@dataclass(frozen=True)
class Front:
    """A worker's servers.

    Args:
        server: gRPC's.
        rest_port: REST's; 0 where it is not served.
    """

    server: RunningServer
    rest_port: int


@contextlib.contextmanager
def answering(
    settings: WorkerSettings, table: ServingTable, forwarder: Forwarder, deployments: DeploymentsClient
) -> Iterator[Answering]:
    """Make what answers predictions; leaving lets the runs under way end.

    Args:
        settings: limits.
        table: who is served.
        forwarder: passes on what stands elsewhere.
        deployments: the deployments service, for load and unload.
    """
    admission = Admission(settings.max_in_flight, settings.admission_file)
    limits = QueueLimits(settings.max_queue_requests, settings.max_queue_bytes)
    batcher = Batcher(lambda: settings.parallel_runs or own_cores() // settings.run_threads, admission, limits)
    shadow = Shadow()
    mirrors = settings.typed_reply == "mirror"
    predictions = Predictions(table, batcher, forwarder, shadow, typed_mirrors=mirrors)
    servicer = OpenInferenceServicer(table, deployments, predictions, forwarder)
    try:
        yield Answering(table, batcher, forwarder, shadow, predictions, servicer)
    finally:
        shadow.close()
        batcher.close()
        admission.close()


@contextlib.asynccontextmanager
async def running_front(
    settings: WorkerSettings, parts: Answering, others: Sequence[Servicer] = ()
) -> AsyncIterator[Front]:
    """Serve the Open Inference Protocol over gRPC and REST, and what else is given, while the block runs.

    Args:
        settings: ports, limits, and which lane.
        parts: what answers.
        others: further services of the gRPC port.
    """

    def fast_server(guard: Guard, options: Sequence[tuple[str, int]]) -> FastServer:
        fast = FastPredictions(
            parts.table,
            parts.batcher,
            guard,
            parts.forwarder,
            parts.shadow,
            typed_mirrors=settings.typed_reply == "mirror",
            most_bytes=settings.max_message_bytes,
            most_unread_bytes=settings.max_unread_bytes,
            default_seconds=settings.call_timeout_seconds,
        )
        return FastServer(guard, options, {MODEL_INFER: fast})

    service = Servicer(
        "inference.GRPCInferenceService",
        lambda server: add_GRPCInferenceServiceServicer_to_server(parts.servicer, server),
    )
    async with running_server(
        settings,
        [service, *others],
        # Workers of one machine share the public port: the kernel spreads connections over them.
        options={"grpc.so_reuseport": 1},
        make_server=fast_server if settings.fast_lane else None,
        plaintext_port=settings.plaintext_port,
    ) as server:
        if settings.rest_port is None:
            yield Front(server, 0)
            return
        app = RestApp(
            parts.servicer,
            parts.predictions,
            server.guard,
            most_bytes=settings.max_message_bytes,
            default_seconds=settings.call_timeout_seconds,
        )
        async with running_rest(settings, app) as rest_port:
            yield Front(server, rest_port)
