"""Follows what workers report and how aliases move, and keeps deployments' state by it."""

import asyncio
import time
from dataclasses import replace
from typing import Self

import structlog

from lepton.v1 import events_pb2, scheduler_pb2
from servicekit.auth import Identity, act_as
from servicekit.events import Event, Nats
from servicekit.state import State
from services.inference.adapters.repository import SqlRepository
from services.inference.convert import seen_from_proto
from services.inference.domain.deployments import Deployment, SeenReplica, observe, serve_version
from services.inference.ports import Registry

_log = structlog.get_logger(__name__)

# A worker reports every second: four lost reports in a row are no accident.
_REPORT_LASTS_SECONDS = 5.0
_LOOK_SECONDS = 2.0
ALIAS_MOVED = "registry.alias.moved"


class Changes:
    """Wakes whoever watches deployments."""

    def __init__(self) -> None:
        self._condition = asyncio.Condition()

    async def tell(self) -> None:
        """Say that a deployment changed."""
        async with self._condition:
            self._condition.notify_all()

    async def wait(self) -> None:
        """Wait for a change, or a while: other processes of a stack make changes, too."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS), self._condition:
                await self._condition.wait()
        except TimeoutError:
            return


class Observer:
    """Keeps every deployment's observed state while it is open. Level-triggered: any report says all of its worker.

    Args:
        state: the database.
        nats: where reports come from.
        changes: tells watchers.
    """

    def __init__(self, state: State[SqlRepository], nats: Nats, changes: Changes) -> None:
        self._state = state
        self._nats = nats
        self._changes = changes
        self._reports: dict[str, tuple[float, bytes, scheduler_pb2.WorkerReport]] = {}
        self._stirred = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._subscribe()), asyncio.create_task(self._run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _subscribe(self) -> None:
        await self._nats.subscribe_plain("lepton-reports.*", scheduler_pb2.WorkerReport, self._take)

    async def _take(self, report: scheduler_pb2.WorkerReport) -> None:
        if report.kind != scheduler_pb2.WORKER_KIND_INFERENCE:
            return
        # Replicas alone: load changes every second and says nothing of deployments.
        content = scheduler_pb2.WorkerReport(replicas=report.replicas).SerializeToString(deterministic=True)
        before = self._reports.get(report.worker)
        self._reports[report.worker] = (time.monotonic(), content, report)
        if before is None or before[1] != content:
            self._stirred.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_REPORT_LASTS_SECONDS):
                    await self._stirred.wait()
            except TimeoutError:
                pass
            self._stirred.clear()
            try:
                # With NATS away nothing is heard of workers that serve on: what was known stays.
                if self._nats.is_connected:
                    await self._observe()
            except Exception as error:
                _log.warning("deployments not observed", exc_info=error)

    async def _observe(self) -> None:
        now = time.monotonic()
        self._reports = {
            worker: entry for worker, entry in self._reports.items() if now - entry[0] < _REPORT_LASTS_SECONDS
        }
        async with self._state.reading() as repository:
            present = await repository.everyone()
        stale = [item for item in present if observe(item, self._seen(item)) != item.observed]
        if not stale:
            return
        async with self._state.writing() as repository:
            for item in stale:
                # Read again, for the wish may have changed since.
                fresh = await repository.find(item.workspace, item.name)
                await repository.save_observed(replace(fresh, observed=observe(fresh, self._seen(fresh))))
        await self._changes.tell()

    def stir(self) -> None:
        """Look again now."""
        self._stirred.set()

    def _seen(self, deployment: Deployment) -> list[SeenReplica]:
        return [
            seen_from_proto(worker, replica)
            for worker, (_, _, report) in self._reports.items()
            for replica in report.replicas
            if (replica.workspace, replica.deployment) == (deployment.workspace, deployment.name)
        ]


class AliasFollower:
    """Has deployments that name an alias serve what it names.

    Args:
        state: the database.
        registry: where the version's digest is looked up.
        changes: tells watchers.
    """

    def __init__(self, state: State[SqlRepository], registry: Registry, changes: Changes) -> None:
        self._state = state
        self._registry = registry
        self._changes = changes

    async def handle(self, event: Event) -> None:
        """Follow one move; a deployment whose alias was deleted serves on."""
        moved = event.parse(events_pb2.AliasMoved).alias
        ref = f"{moved.model}@{moved.name}"
        async with self._state.reading() as repository:
            follows = bool(await repository.followers(event.workspace, ref))
        if not follows or not moved.number:
            return
        with act_as(Identity.for_service(event.workspace, "inference")):
            # What it names now, for a later move may have overtaken this event.
            version = await self._registry.resolve(ref)
        async with self._state.handling(event) as repository:
            if repository is None:
                return
            for deployment in await repository.followers(event.workspace, ref):
                if (deployment.number, deployment.digest) != (version.number, version.digest):
                    await repository.save(serve_version(deployment, ref, version))
        await self._changes.tell()
