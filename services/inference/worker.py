"""A worker's composition: what answers, its servers, its replicas and their plans, its tie to the scheduler."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import grpc

from lepton.v1 import scheduler_pb2, scheduler_pb2_grpc
from lepton.v1.prediction_pb2_grpc import add_PredictionServiceServicer_to_server
from servicekit.events import Nats, connect
from servicekit.rpc import open_channel, raw_channel
from servicekit.server import RunningServer, Servicer
from servicekit.worker import Membership, WorkerAgent, machine_capacity
from services.inference.adapters.data_client import DataClient
from services.inference.adapters.deployments_client import DeploymentsClient
from services.inference.adapters.registry_client import RegistryClient
from services.inference.adapters.training_client import TrainingClient
from services.inference.front import Answering, answering, running_front
from services.inference.plans.tuner import Tuner, limits_of
from services.inference.predict.scoring import Scorer
from services.inference.predict.servicer import PredictionServicer
from services.inference.serving.forwarding import Directory, Forwarder
from services.inference.serving.locating import Locator
from services.inference.serving.metrics import collecting
from services.inference.serving.replicas import Replicas
from services.inference.serving.table import ServingTable
from services.inference.settings import WorkerSettings


@contextlib.asynccontextmanager
async def running_worker(settings: WorkerSettings, worker: str) -> AsyncIterator[RunningServer]:
    """Serve predictions while the block runs.

    Args:
        settings: the worker's.
        worker: its id.
    """
    async with AsyncExitStack() as stack:

        async def channel(address: str) -> grpc.aio.Channel:
            return await stack.enter_async_context(open_channel(address, settings))

        nats = await stack.enter_async_context(connect(settings, worker))
        registry = RegistryClient(await channel(settings.registry_address))
        deployments = DeploymentsClient(await channel(settings.inference_address))
        data = DataClient(await channel(settings.data_address))
        training = TrainingClient(await channel(settings.training_address))
        scheduler = await channel(settings.scheduler_address)
        forwarder = await stack.enter_async_context(_forwarding(settings, worker, nats, deployments))
        table = ServingTable(is_told=False)
        parts = stack.enter_context(answering(settings, table, forwarder, deployments))
        stack.enter_context(collecting(table, forwarder))
        replicas = await stack.enter_async_context(
            Replicas(registry, table, parts.servicer, parts.batcher, settings.run_threads, settings.max_batch_rows)
        )
        tuner = Tuner(replicas, registry, deployments, data, training, limits_of(settings))
        await stack.enter_async_context(tuner)
        typed = stack.enter_context(_typed(settings, parts, data))
        front = await stack.enter_async_context(running_front(settings, parts, [typed]))
        agent = _agent(settings, worker, front.server, scheduler, nats, replicas)
        await stack.enter_async_context(agent)
        yield front.server
        parts.servicer.is_draining = True
        # So that the scheduler does not give this very worker what it is about to let go.
        await agent.announce_leave()


@contextlib.asynccontextmanager
async def _forwarding(
    settings: WorkerSettings, worker: str, nats: Nats, deployments: DeploymentsClient
) -> AsyncIterator[Forwarder]:
    """Hear who holds what, and pass on what is not here."""
    directory = Directory(worker)
    following = asyncio.create_task(directory.follow(nats))
    async with (
        Locator(deployments.locate) as locator,
        Forwarder(directory, lambda address: raw_channel(address, settings), locator) as forwarder,
    ):
        try:
            yield forwarder
        finally:
            following.cancel()


@contextlib.contextmanager
def _typed(settings: WorkerSettings, parts: Answering, data: DataClient) -> Iterator[Servicer]:
    """Make the service of typed predictions."""
    scorer = Scorer(parts.predictions.run, data, settings.parallel_scorings)
    typed = PredictionServicer(parts.table, parts.predictions.run, scorer, parts.forwarder)
    try:
        yield Servicer(
            "lepton.v1.PredictionService", lambda server: add_PredictionServiceServicer_to_server(typed, server)
        )
    finally:
        typed.close()


def _agent(
    settings: WorkerSettings,
    worker: str,
    server: RunningServer,
    scheduler: grpc.aio.Channel,
    nats: Nats,
    replicas: Replicas,
) -> WorkerAgent:
    """Return what keeps the worker in touch with the scheduler."""
    capacity = machine_capacity(settings.worker_cores, settings.worker_memory_bytes, settings.worker_gpus)
    address = settings.worker_address or f"{settings.host}:{server.private_port}"
    membership = Membership(worker, scheduler_pb2.WORKER_KIND_INFERENCE, capacity, address)
    stub = scheduler_pb2_grpc.SchedulerServiceStub(scheduler)
    agent = WorkerAgent(membership, stub, nats, replicas.apply, replicas.holding)
    replicas.on_change = agent.changed
    return agent
