"""Composition root: `python -m services.inference` keeps deployments, `... worker --id ID` serves them."""

import argparse
import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from lepton.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from servicekit.events import connect
from servicekit.rpc import open_channel, raw_channel
from servicekit.server import RunningServer, Servicer, running_server, until_stopped
from servicekit.telemetry import configure_telemetry
from services.inference.adapters.registry_client import RegistryClient
from services.inference.settings import InferenceSettings, WorkerSettings


@contextlib.asynccontextmanager
async def running_deployments(settings: InferenceSettings) -> AsyncIterator[RunningServer]:
    """Keep deployments while the block runs."""
    from servicekit.database import open_database
    from servicekit.outbox import Relay
    from servicekit.state import State
    from services.inference.adapters import tables
    from services.inference.adapters.repository import SqlRepository
    from services.inference.adapters.version_resolver import VersionResolver
    from services.inference.observation import ALIAS_MOVED, AliasFollower, Changes, Observer
    from services.inference.servicer import InferenceServicer

    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(settings.database_url, "services.inference.migrations")
        )
        nats = await stack.enter_async_context(connect(settings, "inference"))
        await stack.enter_async_context(Relay(database, tables.kit.outbox, nats, "inference"))
        registry = await stack.enter_async_context(open_channel(settings.registry_address, settings))
        resolver = VersionResolver(RegistryClient(registry))
        state = State(database, tables.kit, SqlRepository)
        await state.forget_old_requests()
        changes = Changes()
        await stack.enter_async_context(Observer(state, nats, changes))
        follower = await stack.enter_async_context(AliasFollower(state, resolver, changes))
        following = asyncio.create_task(nats.follow("inference-aliases", [ALIAS_MOVED], follower.handle))
        stack.callback(following.cancel)
        servicer = InferenceServicer(state, resolver, changes)
        service = Servicer(
            "lepton.v1.InferenceService", lambda server: add_InferenceServiceServicer_to_server(servicer, server)
        )
        yield await stack.enter_async_context(running_server(settings, [service]))


@contextlib.asynccontextmanager
async def running_worker(settings: WorkerSettings, worker: str) -> AsyncIterator[RunningServer]:
    """Serve predictions while the block runs."""
    from lepton.v1 import scheduler_pb2, scheduler_pb2_grpc
    from lepton.v1.prediction_pb2_grpc import add_PredictionServiceServicer_to_server
    from servicekit.worker import Membership, WorkerAgent, machine_capacity, own_cores
    from services.inference.adapters.data_client import DataClient
    from services.inference.adapters.datasets_client import DatasetsClient
    from services.inference.adapters.deployments_client import DeploymentsClient
    from services.inference.adapters.training_client import TrainingClient
    from services.inference.front import running_front
    from services.inference.plans.tuner import Tuner, limits_of
    from services.inference.predict.scoring import Scorer
    from services.inference.predict.servicer import PredictionServicer
    from services.inference.rest.app import RestApp
    from services.inference.rest.server import running_rest
    from services.inference.serving.admission import Admission
    from services.inference.serving.batcher import Batcher, QueueLimits
    from services.inference.serving.forwarding import Directory, Forwarder
    from services.inference.serving.metrics import collecting
    from services.inference.serving.predictions import Predictions
    from services.inference.serving.replicas import Replicas
    from services.inference.serving.servicer import OpenInferenceServicer
    from services.inference.serving.table import ServingTable

    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(connect(settings, worker))
        scheduler = await stack.enter_async_context(open_channel(settings.scheduler_address, settings))
        registry = await stack.enter_async_context(open_channel(settings.registry_address, settings))
        deployments = await stack.enter_async_context(open_channel(settings.inference_address, settings))
        table = ServingTable(is_told=False)
        admission = Admission(settings.max_in_flight, settings.admission_file)
        stack.callback(admission.close)
        batcher = Batcher(
            lambda: settings.parallel_runs or own_cores() // settings.run_threads,
            admission,
            QueueLimits(settings.max_queue_requests, settings.max_queue_bytes),
        )
        stack.callback(batcher.close)
        directory = Directory(worker)
        following = asyncio.create_task(directory.follow(nats))
        stack.callback(following.cancel)
        forwarder = await stack.enter_async_context(
            Forwarder(directory, lambda address: raw_channel(address, settings))
        )
        stack.enter_context(collecting(table, forwarder))
        predictions = Predictions(table, batcher, forwarder, typed_mirrors=settings.typed_reply == "mirror")
        servicer = OpenInferenceServicer(table, DeploymentsClient(deployments), predictions, forwarder)
        replicas = await stack.enter_async_context(
            Replicas(RegistryClient(registry), table, servicer, batcher, settings.run_threads)
        )
        data = await stack.enter_async_context(open_channel(settings.data_address, settings))
        training = await stack.enter_async_context(open_channel(settings.training_address, settings))
        tuner = Tuner(
            replicas,
            RegistryClient(registry),
            DeploymentsClient(deployments),
            DataClient(data),
            TrainingClient(training),
            limits_of(settings),
        )
        await stack.enter_async_context(tuner)
        scorer = Scorer(predictions.run, DatasetsClient(data), settings.parallel_scorings)
        typed = PredictionServicer(table, predictions.run, scorer, forwarder)
        stack.callback(typed.close)
        typed_service = Servicer(
            "lepton.v1.PredictionService", lambda server: add_PredictionServiceServicer_to_server(typed, server)
        )
        server = await stack.enter_async_context(
            running_front(settings, table, batcher, servicer, forwarder, [typed_service])
        )
        if settings.rest_port is not None:
            rest = RestApp(
                servicer,
                predictions,
                server.guard,
                most_bytes=settings.max_message_bytes,
                default_seconds=settings.call_timeout_seconds,
            )
            await stack.enter_async_context(running_rest(settings, rest))
        capacity = machine_capacity(settings.worker_cores, settings.worker_memory_bytes, settings.worker_gpus)
        address = settings.worker_address or f"{settings.host}:{server.private_port}"
        membership = Membership(worker, scheduler_pb2.WORKER_KIND_INFERENCE, capacity, address)
        stub = scheduler_pb2_grpc.SchedulerServiceStub(scheduler)
        agent = WorkerAgent(membership, stub, nats, replicas.apply, replicas.holding)
        replicas.on_change = agent.changed
        await stack.enter_async_context(agent)
        yield server
        servicer.is_draining = True
        # So that the scheduler does not give this very worker what it is about to let go.
        await agent.announce_leave()


async def serve(settings: InferenceSettings) -> None:
    """Keep deployments until SIGTERM."""
    with configure_telemetry(settings, "inference"):
        async with running_deployments(settings):
            await until_stopped()


async def work(settings: WorkerSettings, worker: str) -> None:
    """Serve predictions until SIGTERM."""
    with configure_telemetry(settings, "inference-worker"):
        async with running_worker(settings, worker):
            await until_stopped()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="services.inference", description=__doc__)
    parser.add_argument("role", nargs="?", choices=["service", "worker"], default="service")
    parser.add_argument("--id", default=f"inference-{socket.gethostname().lower()}", help="the worker's id")
    arguments = parser.parse_args()
    if arguments.role == "worker":
        asyncio.run(work(WorkerSettings(), arguments.id))
    else:
        asyncio.run(serve(InferenceSettings()))


if __name__ == "__main__":
    main()
