"""A worker's gRPC server: the fast lane, or grpc.aio behind the same interface."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from servicekit.rpc import Guard
from servicekit.server import RunningServer, Servicer, running_server
from services.inference.fastlane.predictions import METHOD, FastPredictions
from services.inference.fastlane.server import FastServer
from services.inference.open_inference.grpc_service_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from services.inference.serving.batcher import Batcher
from services.inference.serving.forwarding import Forwarder
from services.inference.serving.servicer import OpenInferenceServicer
from services.inference.serving.table import ServingTable
from services.inference.settings import WorkerSettings


def running_front(
    settings: WorkerSettings,
    table: ServingTable,
    batcher: Batcher,
    servicer: OpenInferenceServicer,
    forwarder: Forwarder | None = None,
    others: Sequence[Servicer] = (),
) -> AbstractAsyncContextManager[RunningServer]:
    """Serve the Open Inference Protocol, and what else is given, while the block runs.

    Args:
        settings: ports, limits, and which lane.
        table: who is served.
        batcher: runs predictions.
        servicer: the protocol's RPCs.
        forwarder: passes on what stands elsewhere; None for a worker alone.
        others: further services of the port.
    """

    def fast_server(guard: Guard, options: Sequence[tuple[str, int]]) -> FastServer:
        fast = FastPredictions(
            table,
            batcher,
            guard,
            forwarder,
            typed_mirrors=settings.typed_reply == "mirror",
            most_bytes=settings.max_message_bytes,
            default_seconds=settings.call_timeout_seconds,
        )
        return FastServer(guard, options, {METHOD: fast})

    service = Servicer(
        "inference.GRPCInferenceService",
        lambda server: add_GRPCInferenceServiceServicer_to_server(servicer, server),
    )
    return running_server(
        settings,
        [service, *others],
        # Workers of one machine share the public port: the kernel spreads connections over them.
        options={"grpc.so_reuseport": 1},
        make_server=fast_server if settings.fast_lane else None,
        plaintext_port=settings.plaintext_port,
    )
