"""Runs the scheduler: `python -m services.scheduler`."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable

import structlog

from lepton.v1 import scheduler_pb2, scheduler_pb2_grpc
from servicekit.database import open_database
from servicekit.errors import Aborted
from servicekit.events import connect
from servicekit.outbox import Relay
from servicekit.rpc import open_channel
from servicekit.server import RunningServer, Servicer, running_server, until_stopped
from servicekit.state import State
from servicekit.telemetry import configure_telemetry
from services.scheduler.adapters.inference_client import InferenceClient
from services.scheduler.adapters.leader_lock import candidacy
from services.scheduler.adapters.listener import Listener
from services.scheduler.adapters.placements_bucket import PlacementsBucket
from services.scheduler.adapters.repository import SqlRepository
from services.scheduler.adapters.tables import kit
from services.scheduler.adapters.training_client import TrainingClient
from services.scheduler.domain.cluster import Policy
from services.scheduler.domain.leadership import Candidate
from services.scheduler.domain.scheduler import Scheduler, Timing
from services.scheduler.domain.tasks import cancel, first_to_end
from services.scheduler.metrics import count_plan
from services.scheduler.servicer import SchedulerServicer
from services.scheduler.settings import SchedulerSettings

_log = structlog.get_logger(__name__)

NAME = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name
_PAUSE_SECONDS = 0.5


@contextlib.asynccontextmanager
async def running_scheduler(settings: SchedulerSettings) -> AsyncIterator[RunningServer]:
    """Run a scheduler, leading or standing by; leaving ends it in order."""
    async with contextlib.AsyncExitStack() as stack:
        database = await stack.enter_async_context(
            open_database(settings.database_url, "services.scheduler.migrations")
        )
        nats = await stack.enter_async_context(connect(settings, "scheduler"))
        await stack.enter_async_context(Relay(database, kit.outbox, nats, "scheduler"))
        inference = await stack.enter_async_context(open_channel(settings.inference_address, settings))
        training = await stack.enter_async_context(open_channel(settings.training_address, settings))
        state = State(database, kit, SqlRepository)
        scheduler = Scheduler(
            state,
            PlacementsBucket(nats),
            InferenceClient(inference),
            TrainingClient(training),
            Policy(cover=settings.cover_workers),
            Timing(settings.lease_seconds, settings.grace_seconds, settings.resync_seconds, settings.debounce_seconds),
        )
        scheduler.on_plan = count_plan
        listener = Listener(nats, scheduler)
        servicer = SchedulerServicer(scheduler, state, time.time)
        add = functools.partial(scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server, servicer)
        server = await stack.enter_async_context(running_server(settings, [Servicer(NAME, add)], healthy=False))
        await stack.enter_async_context(_background(listener.hear_reports()))
        await stack.enter_async_context(_background(_stand(settings, state, scheduler, listener, server)))
        yield server


async def _stand(
    settings: SchedulerSettings,
    state: State[SqlRepository],
    scheduler: Scheduler,
    listener: Listener,
    server: RunningServer,
) -> None:
    async with candidacy(settings.database_url, server.private_port, settings.leadership_seconds) as stands:
        candidate = Candidate(state, stands.holder, stands.seconds)
        await _lead_forever(candidate, scheduler, listener, server)


async def _lead_forever(candidate: Candidate, scheduler: Scheduler, listener: Listener, server: RunningServer) -> None:
    least_epoch = 0
    while True:
        epoch = await candidate.campaign(least_epoch)
        try:
            await first_to_end(
                candidate.keep(epoch), scheduler.lead(epoch), listener.follow(), _show_health(scheduler, server)
            )
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await candidate.release(epoch)
            raise
        except Aborted as error:
            least_epoch = int(error.metadata.get("leader_epoch", "0"))
            _log.warning("leads no longer", epoch=epoch, why=error.message)
        except Exception as error:
            _log.error("leading failed", epoch=epoch, exc_info=error)
        # A standby is not healthy: a balancer sends workers to the leader.
        await server.set_healthy([NAME], False)
        await asyncio.sleep(_PAUSE_SECONDS)


async def _show_health(scheduler: Scheduler, server: RunningServer) -> None:
    await scheduler.leads.wait()
    await server.set_healthy([NAME], True)
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def _background(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        await cancel([task])


async def _main(settings: SchedulerSettings) -> None:
    async with running_scheduler(settings):
        await until_stopped()


if __name__ == "__main__":
    process_settings = SchedulerSettings.model_validate({})
    with configure_telemetry(process_settings, "scheduler"):
        asyncio.run(_main(process_settings))
